"""Beside fadam on the same card: PyTorch's AdamW, an AdamW of one element a thread as llm.c has it, and kernels that only move
an AdamW's memory. One JSON object a line, as docs/gpu/page.py reads them. Needs PyTorch and CuPy.

    python3 peers.py --shape gpt2|resnet50|N [--round R] [--seconds S]
"""

import argparse
import json

import cupy
import torch

DEVICE = torch.device("cuda")
BATCH = 4  # runs between two events
LEAST = 5  # timings

LLM_C = r"""
__device__ float lerp_(float start, float end, float weight) { return fmaf(weight, end, fmaf(-weight, start, start)); }
extern "C" __global__ void llm_c(float *p, const float *g, float *m, float *v, long long n, float lr, float beta1, float beta2,
                                 float correction1, float correction2, float eps, float decay, float scale) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float grad = scale * g[i], first = lerp_(grad, m[i], beta1), second = lerp_(grad * grad, v[i], beta2);
    m[i] = first;
    v[i] = second;
    float old = p[i];
    p[i] = old - lr * (first / correction1 / (sqrtf(second / correction2) + eps) + decay * old);
}
"""

# An AdamW's traffic: four arrays read, three written, 16 bytes at a time; and a copy.
TRAFFIC = r"""
#define EACH for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)
extern "C" __global__ void traffic(float4 *p, const float4 *g, float4 *m, float4 *v, long long n) {
    EACH { float4 a = g[i], b = p[i], c = m[i], d = v[i]; b.x += a.x; c.y += a.y; d.z += a.z; p[i] = b; m[i] = c; v[i] = d; }
}
extern "C" __global__ void streaming(float4 *p, const float4 *g, float4 *m, float4 *v, long long n) {
    EACH {
        float4 a = __ldcs(g + i), b = __ldcs(p + i), c = __ldcs(m + i), d = __ldcs(v + i);
        b.x += a.x; c.y += a.y; d.z += a.z;
        __stcs(p + i, b); __stcs(m + i, c); __stcs(v + i, d);
    }
}
extern "C" __global__ void copy(float4 *p, const float4 *g, float4 *m, float4 *v, long long n) { EACH p[i] = g[i]; }
"""


def gpt2():
    norm, lengths = [768, 768], [50257 * 768, 1024 * 768]
    for _ in range(12):
        lengths += norm + [768 * 2304, 2304, 768 * 768, 768] + norm + [768 * 3072, 3072, 3072 * 768, 768]
    return lengths + norm


def resnet50():
    def convolution(inputs, outputs, size):
        return [inputs * outputs * size * size, outputs, outputs]

    lengths, channels = convolution(3, 64, 7), 64
    for blocks, width in [(3, 64), (4, 128), (6, 256), (3, 512)]:
        for block in range(blocks):
            lengths += convolution(channels, width, 1) + convolution(width, width, 3) + convolution(width, 4 * width, 1)
            if block == 0:
                lengths += convolution(channels, 4 * width, 1)
            channels = 4 * width
    return lengths + [channels * 1000, 1000]


def lengths_of(shape):
    if shape in ("gpt2", "resnet50"):
        return {"gpt2": gpt2, "resnet50": resnet50}[shape]()
    return [int(shape)]


def median_ms(run, seconds):
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times, total = [], 0.0
    while total < seconds or len(times) < LEAST:
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        for _ in range(BATCH):
            run()
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after) / BATCH)
        total += times[-1] * BATCH * 1e-3
    return sorted(times)[len(times) // 2]


class Peers:
    def __init__(self, options):
        self.shape, self.round, self.seconds = options.shape, options.round, options.seconds
        self.lengths = lengths_of(options.shape)
        self.params = sum(self.lengths)

    def row(self, what, run, bytes_per_param, **more):
        ms = median_ms(run, self.seconds)
        row = {"what": what, "round": self.round, "params": self.params, "bytes_per_param": bytes_per_param, "median_ms": ms,
               "gb_per_s": bytes_per_param * self.params / ms * 1e-6}
        print(json.dumps(row | more), flush=True)

    def step(self, library, how, run, dtype, clip, **more):
        name = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
        bytes_per_param = 7 * dtype.itemsize + (dtype.itemsize if clip else 0)
        self.row("step", run, bytes_per_param, library=library, how=how, algorithm="adamw", shape=self.shape, param=name,
                 grad=name, moments=name, clip=clip, **more)

    def torch(self, dtype, how, clip):
        parameters = [torch.nn.Parameter(torch.randn(n, device=DEVICE, dtype=dtype)) for n in self.lengths]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        kind = "foreach" if how == "foreach" else "fused"
        optimizer = torch.optim.AdamW(parameters, lr=1e-9, weight_decay=0.1, capturable=how == "graph", **{kind: True})

        def run():
            if clip:
                torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()

        if how == "graph":
            side = torch.cuda.Stream()  # the first steps, which allocate, before the capture
            with torch.cuda.stream(side):
                run()
                run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            self.step("torch", how, graph.replay, dtype, clip, version=torch.__version__)
        else:
            self.step("torch", how, run, dtype, clip, version=torch.__version__)

    def kernels(self):
        elements = -(-self.params // 4) * 4
        arrays = [torch.rand(elements, device=DEVICE) for _ in range(4)]
        pointers = [array.data_ptr() for array in arrays]
        processors = cupy.cuda.Device().attributes["MultiProcessorCount"]
        module = cupy.RawModule(code=LLM_C + TRAFFIC, options=("--std=c++17",))
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            scalars = [cupy.float32(x) for x in (1e-9, 0.9, 0.999, 0.1, 0.001, 1e-8, 0.1, 1.0)]
            function, arguments = module.get_function("llm_c"), (*pointers, cupy.int64(self.params), *scalars)
            grid = -(-self.params // 512)
            self.step("llm.c", "one element per thread", lambda: function((grid,), (512,), arguments), torch.float32, False)
            for kernel, name, width in (("traffic", "adamw traffic", 28), ("streaming", "adamw traffic, streaming hints", 28),
                                        ("copy", "copy", 8)):
                moves, arguments = module.get_function(kernel), (*pointers, cupy.int64(elements // 4))
                self.row("ceiling", lambda: moves((processors * 8,), (256,), arguments), width, name=name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--round", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.25)
    peers = Peers(parser.parse_args())
    peers.kernels()
    for dtype in (torch.float32, torch.bfloat16):
        for how, clip in (("fused", False), ("fused", True), ("graph", False), ("graph", True), ("foreach", True)):
            peers.torch(dtype, how, clip)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
