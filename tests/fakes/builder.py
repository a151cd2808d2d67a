"""A fake of TensorRT's builder, for what does not depend on the model."""

from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

from tests.fakes.tensorrt import FakeLogger

NETWORK_FLAGS = IntEnum("NETWORK_FLAGS", {"STRONGLY_TYPED": 1})


class Flag(Enum):
    TF32 = 6


class FakeTimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"measured;"


class FakeConfig:
    """A configuration that accepts timing caches of its own GPU only."""

    def __init__(self, trt: "FakeBuilderModule") -> None:
        self._trt = trt
        self.flags = {Flag.TF32}
        self.preview: dict[Any, bool] = {}
        self.cache: FakeTimingCache | None = None

    def clear_flag(self, flag: Flag) -> None:
        self.flags.remove(flag)

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        assert feature in vars(self._trt.PreviewFeature)
        self.preview[feature] = enable

    def add_optimization_profile(self, _profile: Any) -> int:
        return 0

    def create_timing_cache(self, content: bytes) -> FakeTimingCache:
        return FakeTimingCache(content)

    def set_timing_cache(self, cache: FakeTimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.content and not cache.content.startswith(self._trt.gpu):
            return False
        self.cache = cache
        return True


class FakeBuilderModule:
    """The module.

    Attributes
    ----------
    gpu
        What its timing caches start with.
    configs
        The configurations that were created.
    """

    ILogger = FakeLogger
    BuilderFlag = Flag
    NetworkDefinitionCreationFlag = NETWORK_FLAGS

    def __init__(self, *features: str) -> None:
        names = ("ALIASED_PLUGIN_IO_10_03", *features)
        self.PreviewFeature = type("PreviewFeature", (), {name: name for name in names})
        self.gpu = b"RTX 3060;"
        self.configs: list[FakeConfig] = []

    def Builder(self, _logger: Any) -> Any:
        return SimpleNamespace(
            create_network=self._network,
            create_builder_config=self._config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *_: None),
            build_serialized_network=lambda _network, _config: b"plan",
        )

    def OnnxParser(self, _network: Any, _logger: Any) -> Any:
        return SimpleNamespace(parse=lambda _model: True, num_errors=0)

    def _network(self, flags: int) -> Any:
        assert flags == 1 << NETWORK_FLAGS.STRONGLY_TYPED
        images = SimpleNamespace(name="images", shape=(-1, 1, 160, 160))
        return SimpleNamespace(get_input=lambda _index: images)

    def _config(self) -> FakeConfig:
        self.configs.append(FakeConfig(self))
        return self.configs[-1]
