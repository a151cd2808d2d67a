"use strict";
// The viewer of a lesion report: controls around NiiVue. The page holds all data.
(() => {
  const byId = (id) => document.getElementById(id);
  // Axis of each plane in NiiVue's order: rising to the right, to anterior, to superior.
  const PLANES = { sagittal: 0, coronal: 1, axial: 2 };
  const HIDDEN = 0;

  const giveUp = (reason) => {
    byId("viewer").hidden = true;
    byId("viewer-missing").textContent = `No viewer: ${reason}`;
    byId("viewer-missing").hidden = false;
    document.documentElement.dataset.viewer = "missing";
  };

  const hasWebGL2 = () => Boolean(document.createElement("canvas").getContext("webgl2"));

  const slider = (id, show, change) => {
    const input = byId(id);
    const output = document.querySelector(`output[for="${id}"]`);
    const refresh = () => {
      output.textContent = show(Number(input.value));
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => {
      change(Number(input.value));
      refresh();
    });
    return {
      input,
      set(value) {
        input.value = value;
        refresh();
      },
    };
  };

  const start = async (data) => {
    const { Niivue, NVImage, SLICE_TYPE, SHOW_RENDER } = window.niivue;
    const viewer = new Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.35, 0.65, 1, 0.8],
      crosshairWidth: 1,
      crosshairWidthUnit: "pixels",
      crosshairGap: 12,
      dragAndDropEnabled: false,
      fontColor: [0.85, 0.85, 0.85, 1],
      isRadiologicalConvention: true,
      loadingText: "",
      logLevel: "error",
      multiplanarShowRender: SHOW_RENDER.NEVER,
      sagittalNoseLeft: true,
      scrollRequiresFocus: true,
      viewModeHotKey: "",
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
    });
    await viewer.attachToCanvas(byId("canvas"));

    const image = await NVImage.loadFromBase64({
      base64: data.volume,
      name: "volume.nii.gz",
      colormap: "gray",
      cal_min: data.window[0],
      cal_max: data.window[1],
    });
    viewer.addVolume(image);
    for (const mask of data.masks) {
      const [red, green, blue] = mask.colour;
      viewer.addColormap(mask.id, {
        R: [red, red],
        G: [green, green],
        B: [blue, blue],
        A: [0, 255],
        I: [0, 255],
      });
      const overlay = await NVImage.loadFromBase64({
        base64: mask.nifti,
        name: `${mask.id}.nii.gz`,
        colormap: mask.id,
        cal_min: 0,
        cal_max: 1,
      });
      viewer.addVolume(overlay);
    }

    const position = () => viewer.scene.crosshairPos;
    const view = byId("view");
    const plane = () => (view.value === "multiplanar" ? "axial" : view.value);

    // All positions are voxels of the file, as in the rest of the report. NiiVue's own
    // millimetres are not those of the file where its slices are oblique.
    const toVoxel = (name, n) => {
      const { count, reversed } = data.axes[name];
      return reversed ? count - 1 - n : n;
    };
    const currentSlice = (name) => {
      const count = data.axes[name].count;
      const n = Math.floor(position()[PLANES[name]] * count);
      return Math.min(Math.max(n, 0), count - 1);
    };
    const currentVoxel = () => {
      const voxel = [0, 0, 0];
      for (const name of Object.keys(PLANES)) {
        voxel[data.axes[name].voxel_axis] = toVoxel(name, currentSlice(name));
      }
      return voxel;
    };
    const toMm = (voxel) =>
      data.affine
        .slice(0, 3)
        .map((row) => row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]);
    const goTo = (place) => {
      viewer.scene.crosshairPos = place;
      viewer.drawScene();
      viewer.createOnLocationChange();
    };
    const goToVoxel = (voxel) => {
      const place = [0, 0, 0];
      for (const [name, i] of Object.entries(PLANES)) {
        const axis = data.axes[name];
        place[i] = (toVoxel(name, Math.round(voxel[axis.voxel_axis])) + 0.5) / axis.count;
      }
      goTo(place);
    };
    const goToSlice = (n) => {
      const name = plane();
      const place = [...position()];
      place[PLANES[name]] = (n + 0.5) / data.axes[name].count;
      goTo(place);
    };

    const slice = slider("slice", (n) => String(toVoxel(plane(), n)), goToSlice);
    const showSlice = () => {
      slice.input.max = data.axes[plane()].count - 1;
      slice.set(currentSlice(plane()));
    };

    const [lowest, highest] = data.range;
    const digits = Math.max(0, 2 - Math.floor(Math.log10(highest - lowest)));
    const intensity = (value) => value.toFixed(digits);
    const applyWindow = () => {
      const middle = Number(centre.input.value);
      const half = Number(width.input.value) / 2;
      image.cal_min = middle - half;
      image.cal_max = middle + half;
      viewer.updateGLVolume();
    };
    const centre = slider("centre", intensity, applyWindow);
    const width = slider("width", intensity, applyWindow);
    const step = (highest - lowest) / 500;
    Object.assign(centre.input, { min: lowest, max: highest, step });
    Object.assign(width.input, { min: step, max: highest - lowest, step });
    const showWindow = (low, high) => {
      centre.set((low + high) / 2);
      width.set(high - low);
    };

    const applyMasks = () => {
      data.masks.forEach((mask, i) => {
        const shown = byId(`show-${mask.id}`).checked;
        viewer.setOpacity(i + 1, shown ? Number(opacity.input.value) / 100 : HIDDEN);
      });
    };
    const opacity = slider("opacity", (percent) => `${percent} %`, applyMasks);
    for (const mask of data.masks) {
      byId(`show-${mask.id}`).addEventListener("change", applyMasks);
    }

    viewer.onLocationChange = () => {
      showSlice();
      const voxel = currentVoxel();
      const mm = toMm(voxel).map(
        (each, i) => `${(each < 0 ? "LPI" : "RAS")[i]} ${Math.abs(each).toFixed(1)}`,
      );
      const value = image.getValue(...Object.keys(PLANES).map(currentSlice));
      byId("position").textContent =
        `voxel ${voxel.join(", ")}; ${mm.join(", ")} mm; intensity ${intensity(value)}`;
    };
    viewer.onIntensityChange = (volume) => showWindow(volume.cal_min, volume.cal_max);

    view.addEventListener("change", () => {
      viewer.setSliceType(SLICE_TYPE[view.value.toUpperCase()]);
      showSlice();
    });

    const reset = () => {
      view.value = "multiplanar";
      viewer.setSliceType(SLICE_TYPE.MULTIPLANAR);
      viewer.setPan2Dxyzmm([0, 0, 0, 1]);
      showWindow(...data.window);
      applyWindow();
      opacity.set(50);
      for (const mask of data.masks) {
        byId(`show-${mask.id}`).checked = true;
      }
      applyMasks();
      goToVoxel(data.start);
    };
    byId("reset").addEventListener("click", reset);
    reset();

    for (const button of document.querySelectorAll("button[data-voxel]")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        goToVoxel(button.dataset.voxel.split(" ").map(Number));
        byId("viewer").scrollIntoView({ block: "nearest" });
      });
    }
    document.documentElement.dataset.viewer = "ready";
    window.lesionViewer = viewer;
  };

  if (!hasWebGL2()) {
    giveUp("this browser does not offer WebGL 2, which it needs. The pictures above show the slices.");
    return;
  }
  byId("viewer").hidden = false;
  start(JSON.parse(byId("viewer-data").textContent)).catch((error) => {
    giveUp(`it failed in this browser (${error.message}). The pictures above show the slices.`);
  });
})();
