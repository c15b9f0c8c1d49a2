"""Many engines as one: workers on the GPUs of a machine or of a cluster, through Ray."""

from arc_airv import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "arc_airv.engines.cluster.ray": "RayEngine",
    },
)
