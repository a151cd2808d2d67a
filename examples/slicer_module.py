"""The logic of a scripted module for 3D Slicer: a volume in, a label map on its grid out.

Install the package into Slicer once, in its Python console::

    slicer.util.pip_install("cnnres-infer[cpu]")

The widget that calls `segment` is that of Slicer's template for scripted modules. To try it
without one, put this file on Slicer's ``sys.path``, load a DWI, and enter in the console::

    import slicer_module
    slicer_module.CnnResLogic().segment(slicer.util.getNode("dwi"))
"""

from typing import Any

import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from cnnres_infer import Predictor


class CnnResLogic(ScriptedLoadableModuleLogic):  # type: ignore[misc]
    """Segments volumes of the scene; the model is loaded once."""

    def __init__(self) -> None:
        super().__init__()
        self._predictor = Predictor.load()

    def segment(self, dwi: Any) -> Any:
        """Add a label map with the lesions of a scalar volume node, and show it."""
        placement = vtk.vtkMatrix4x4()
        dwi.GetIJKToRASMatrix(placement)
        # Slicer's arrays are (K, J, I); its world is RAS in mm, as here.
        voxels = slicer.util.arrayFromVolume(dwi).T
        result = self._predictor.predict(
            (voxels, slicer.util.arrayFromVTKMatrix(placement)), progress=self._show
        )
        name = f"{dwi.GetName()} lesions"
        lesions = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
        slicer.util.updateVolumeFromArray(lesions, result.mask.data.T)
        lesions.SetIJKToRASMatrix(placement)
        lesions.SetAndObserveTransformNodeID(dwi.GetTransformNodeID())
        slicer.util.setSliceViewerLayers(background=dwi, label=lesions)
        return lesions

    def _show(self, stage: str, done: int, total: int) -> None:
        slicer.util.showStatusMessage(f"CNN-Res, {stage}: {done} of {total}")
        slicer.app.processEvents()
