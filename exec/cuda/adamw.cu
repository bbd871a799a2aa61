/* AdamW over one slab (Loshchilov and Hutter 2019, algorithm 2, in the arrangement of
 * torch.optim.AdamW: decay first, then lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)).
 * fp32 parameters are updated in place. bf16 parameters have a master copy in fp32, which is
 * updated and rounded to nearest even; gradients and moments are fp32 in both. */
#include "exec/cuda/device.cuh"

struct adamw_constants {
    float grad_scale, beta1, rest1, beta2, rest2, keep, step_size, second_scale, eps;
};

__host__ __device__ static adamw_constants constants_of(double learning_rate, double beta1,
                                                        double beta2, double eps,
                                                        double weight_decay, double grad_scale,
                                                        double step)
{
    return {static_cast<float>(grad_scale),
            static_cast<float>(beta1),
            1.0f - static_cast<float>(beta1),
            static_cast<float>(beta2),
            1.0f - static_cast<float>(beta2),
            static_cast<float>(1.0 - learning_rate * weight_decay),
            static_cast<float>(learning_rate / (1.0 - pow(beta1, step))),
            static_cast<float>(1.0 / sqrt(1.0 - pow(beta2, step))),
            static_cast<float>(eps)};
}

/* Inside a graph: the constants of the step that it is launched for. */
__global__ static void constants_kernel(hlm_op_scalars s, const hlm_cuda_varying *varying,
                                        adamw_constants *out)
{
    if (threadIdx.x == 0) {
        *out = constants_of(varying->learning_rate, s.beta1, s.beta2, s.adam_eps, s.weight_decay,
                            varying->grad_scale, varying->step);
    }
}

/* What the launch was given, or inside a graph what constants_kernel made. */
struct adamw_source {
    adamw_constants given;
    const adamw_constants *made;
};

/* master is where the fp32 value stands: param itself for fp32 parameters. */
template <class T, int V>
__global__ static void adamw_kernel(adamw_source source, const float *grad, T *param, float *first,
                                    float *second, float *master, int64_t count)
{
    const adamw_constants c = source.made == nullptr ? source.given : *source.made;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x * V;
    for (int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V; i < count;
         i += stride) {
        float g[V], m[V], v[V], p[V];
        load<V>(grad + i, g);
        load<V>(first + i, m);
        load<V>(second + i, v);
        load<V>(master + i, p);
#pragma unroll
        for (int k = 0; k < V; k++) {
            const float scaled = g[k] * c.grad_scale;
            m[k] = c.beta1 * m[k] + c.rest1 * scaled;
            v[k] = c.beta2 * v[k] + c.rest2 * (scaled * scaled);
            p[k] = c.keep * p[k] - c.step_size * m[k] / (sqrtf(v[k]) * c.second_scale + c.eps);
        }
        store<V>(first + i, m);
        store<V>(second + i, v);
        store<V>(master + i, p);
        if constexpr (std::is_same_v<T, bf16>) {
            store<V>(param + i, p);
        }
    }
}

static adamw_source source_of(const hlm_cuda_call *call)
{
    const hlm_op_scalars *s = call->scalars;
    if (call->varying == nullptr) {
        return {constants_of(s->learning_rate, s->beta1, s->beta2, s->adam_eps, s->weight_decay,
                             s->grad_scale, static_cast<double>(s->step)),
                nullptr};
    }
    adamw_constants *made = static_cast<adamw_constants *>(call->scratch);
    start({1, WARP, 0, call->stream}, constants_kernel, *s, call->varying, made);
    return {{}, made};
}

extern "C" int64_t hlm_cuda_scratch_adamw(const hlm_op *op)
{
    static_cast<void>(op);
    return static_cast<int64_t>(sizeof(adamw_constants));
}

/* Operand 4 is the master copy of bf16 parameters. */
extern "C" cudaError_t hlm_cuda_adamw(const hlm_cuda_call *call)
{
    HLM_ASSERT(call->scalars != nullptr && call->scalars->step >= 1);
    void *const *where = call->operands;
    const int64_t count = call->op->m;
    float *master = at<float>(call, is_bf16(call) ? 4 : 1);
    if (master == nullptr) {
        return cudaErrorNotSupported;
    }
    const adamw_source source = source_of(call);
    return dispatch(
        call, count, {where[0], where[1], where[2], where[3], master}, [&](auto type, auto vector) {
            using T = typename decltype(type)::type;
            constexpr int V = decltype(vector)::value;
            const int64_t blocks = divide_up(divide_up(count < 1 ? 1 : count, V), 256);
            const int64_t most = static_cast<int64_t>(call->num_sms) * 32;
            start({static_cast<unsigned>(blocks < most ? blocks : most), 256, 0, call->stream},
                  adamw_kernel<T, V>, source, at<float>(call, 0), at<T>(call, 1),
                  at<float>(call, 2), at<float>(call, 3), master, count);
        });
}
