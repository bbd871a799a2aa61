/* AdamW over one slab (Loshchilov and Hutter 2019, algorithm 2, in the arrangement of
 * torch.optim.AdamW: decay first, then lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)).
 * fp32 parameters are updated in place. bf16 parameters have a master copy in fp32, which is
 * updated and rounded to nearest even; gradients and moments are fp32 in both. */
#include "exec/cuda/device.cuh"

struct adamw_constants {
    float grad_scale, beta1, rest1, beta2, rest2, keep, step_size, second_scale, eps;
};

/* master is where the fp32 value stands: param itself for fp32 parameters. */
template <class T, int V>
__global__ static void adamw_kernel(adamw_constants c, const float *grad, T *param, float *first,
                                    float *second, float *master, int64_t count)
{
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

static adamw_constants constants_of(const hlm_op_scalars *s)
{
    const double step = static_cast<double>(s->step);
    return {.grad_scale = static_cast<float>(s->grad_scale),
            .beta1 = static_cast<float>(s->beta1),
            .rest1 = 1.0f - static_cast<float>(s->beta1),
            .beta2 = static_cast<float>(s->beta2),
            .rest2 = 1.0f - static_cast<float>(s->beta2),
            .keep = static_cast<float>(1.0 - s->learning_rate * s->weight_decay),
            .step_size = static_cast<float>(s->learning_rate / (1.0 - pow(s->beta1, step))),
            .second_scale = static_cast<float>(1.0 / sqrt(1.0 - pow(s->beta2, step))),
            .eps = static_cast<float>(s->adam_eps)};
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
    const adamw_constants constants = constants_of(call->scalars);
    return dispatch(
        call, count, {where[0], where[1], where[2], where[3], master}, [&](auto type, auto vector) {
            using T = typename decltype(type)::type;
            constexpr int V = decltype(vector)::value;
            const int64_t blocks = divide_up(divide_up(count < 1 ? 1 : count, V), 256);
            const int64_t most = static_cast<int64_t>(call->num_sms) * 32;
            start({static_cast<unsigned>(blocks < most ? blocks : most), 256, 0, call->stream},
                  adamw_kernel<T, V>, constants, at<float>(call, 0), at<T>(call, 1),
                  at<float>(call, 2), at<float>(call, 3), master, count);
        });
}
