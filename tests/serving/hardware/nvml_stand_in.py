"""A stand-in for NVML: what `pynvml` answers for a box that is described, and every way in which it may stumble."""

from types import SimpleNamespace

MIB = 1024**2


class Nvml:
    """A driver's library with whole GPUs (name, MiB, free, capability) and MIG slices.

    `stumbles` maps a call, or a call and the number of its GPU, to what it raises or answers instead.
    """

    NVML_DEVICE_MIG_ENABLE = 1
    nvmlMemory_v2 = 2

    class NVMLError(Exception):
        pass

    class NVMLError_NotFound(NVMLError):
        pass

    class NVMLError_NotSupported(NVMLError):
        def __str__(self):
            return "Not Supported"

    class NVMLError_GpuIsLost(NVMLError):
        def __str__(self):
            return "GPU is lost"

    class NVMLError_NoPermission(NVMLError):
        def __str__(self):
            return "Insufficient Permissions"

    class NVMLError_FunctionNotFound(NVMLError):
        def __str__(self):
            return "Function Not Found"

    def __init__(self, gpus=(), failure=None, stumbles=None):
        self.gpus, self.failure = list(gpus), failure
        self.stumbles = dict(stumbles or {})

    def nvmlInit(self):
        if self.failure:
            raise self.failure

    def nvmlShutdown(self):
        if "nvmlShutdown" in self.stumbles:
            raise self.stumbles["nvmlShutdown"]

    def __getattr__(self, name):
        answers = {
            "nvmlDeviceGetCount": lambda: len(self.gpus),
            "nvmlDeviceGetHandleByIndex": lambda index: self.gpus[index],
            "nvmlDeviceGetMigMode": lambda gpu: [int("slices" in gpu), 0],
            "nvmlDeviceGetMaxMigDeviceCount": lambda gpu: 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": self.slice,
            "nvmlDeviceGetName": lambda gpu: gpu["name"].encode(),
            "nvmlDeviceGetUUID": lambda gpu: gpu["uuid"],
            "nvmlDeviceGetCudaComputeCapability": lambda gpu: gpu.get("capability", [9, 0]),
            "nvmlDeviceGetMemoryInfo": self.memory,
            "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [
                SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in gpu.get("pids", ())
            ],
            "nvmlDeviceGetGraphicsRunningProcesses": lambda gpu: [],
            "nvmlSystemGetProcessName": lambda pid: b"python",
            "nvmlSystemGetDriverVersion": lambda: "580.65",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
        }
        if name not in answers:
            raise AttributeError(name)

        def call(*arguments, **options):
            of = arguments[0] if arguments else None
            number = of if isinstance(of, int) else self.gpus.index(of) if of in self.gpus else None
            for key in ((name, number), name):
                if key in self.stumbles:
                    answer = self.stumbles[key]
                    if isinstance(answer, Exception):
                        raise answer
                    return answer
            return answers[name](*arguments, **options)

        return call

    def slice(self, gpu, index):
        if index >= len(gpu["slices"]):
            raise self.NVMLError_NotFound
        return gpu["slices"][index]

    def memory(self, gpu, version=None):
        if gpu.get("unified"):
            raise self.NVMLError_NotSupported
        return SimpleNamespace(
            total=gpu.get("total", 81559) * MIB, reserved=551 * MIB, free=gpu.get("free", 81008) * MIB
        )


CALLS = (
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlSystemGetProcessName",
    "nvmlSystemGetDriverVersion",
    "nvmlSystemGetCudaDriverVersion_v2",
)


def h100(number, **more):
    return {"name": "NVIDIA H100 80GB HBM3", "uuid": f"GPU-{number}", **more}


def slices(*names, parent="a"):
    return [{"name": f"NVIDIA H100 80GB HBM3 MIG {name}", "uuid": f"MIG-{parent}{n}"} for n, name in enumerate(names)]
