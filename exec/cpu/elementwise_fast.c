/* Element-wise operators: activations, biases, sums, the optimizer. */
#include <math.h>

#include "exec/cpu/cpu.h"
#include "exec/cpu/vector.h"

/* gelu(x) = x / 2 * (1 + tanh(u)) = x * sigmoid(2 u), 2 u = x * (GELU_A + GELU_B * x^2), with
 * u = sqrt(2 / pi) * (x + 0.044715 x^3) (Hendrycks and Gimpel 2016). No difference of near numbers.
 */
#define GELU_A 1.5957691216057308f
#define GELU_B 0.07135481282552f

HLM_CPU_INLINE float gelu(float x)
{
    return x * hlm_cpu_sigmoid(x * (GELU_A + GELU_B * x * x));
}

HLM_CPU_INLINE float gelu_derivative(float x)
{
    const float s = hlm_cpu_sigmoid(x * (GELU_A + GELU_B * x * x));
    return s + x * s * (1.0f - s) * (GELU_A + 3.0f * GELU_B * x * x);
}

HLM_CPU_CLONES
static void gelu_fwd(const float *in, const float *bias, float *out, int64_t rows, int64_t cols)
{
    if (bias == NULL) {
        HLM_CPU_INDEPENDENT
        for (int64_t i = 0; i < rows * cols; i++) {
            out[i] = gelu(in[i]);
        }
        return;
    }
    for (int64_t row = 0; row < rows; row++) {
        HLM_CPU_INDEPENDENT
        for (int64_t j = 0; j < cols; j++) {
            out[row * cols + j] = gelu(in[row * cols + j] + bias[j]);
        }
    }
}

HLM_CPU_CLONES
static void gelu_bwd(const float *in, const float *bias, const float *dout, float *din,
                     int64_t rows, int64_t cols)
{
    if (bias == NULL) {
        HLM_CPU_INDEPENDENT
        for (int64_t i = 0; i < rows * cols; i++) {
            din[i] = dout[i] * gelu_derivative(in[i]);
        }
        return;
    }
    for (int64_t row = 0; row < rows; row++) {
        HLM_CPU_INDEPENDENT
        for (int64_t j = 0; j < cols; j++) {
            const int64_t i = row * cols + j;
            din[i] = dout[i] * gelu_derivative(in[i] + bias[j]);
        }
    }
}

/* One row: gate and up are the halves of `in`. */
HLM_CPU_INLINE void swiglu_row_fwd(const float *in, float *out, int64_t cols)
{
    const float *up = in + cols;
    HLM_CPU_INDEPENDENT
    for (int64_t j = 0; j < cols; j++) {
        out[j] = in[j] * hlm_cpu_sigmoid(in[j]) * up[j];
    }
}

HLM_CPU_INLINE void swiglu_row_bwd(const float *in, const float *dout, float *din, int64_t cols)
{
    const float *up = in + cols;
    float *dup = din + cols;
    HLM_CPU_INDEPENDENT
    for (int64_t j = 0; j < cols; j++) {
        const float g = in[j], u = up[j], d = dout[j];
        const float s = hlm_cpu_sigmoid(g);
        dup[j] = d * g * s;
        din[j] = d * u * s * (1.0f + g * (1.0f - s));
    }
}

HLM_CPU_CLONES
static void swiglu_fwd(const float *in, float *out, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        swiglu_row_fwd(in + row * 2 * cols, out + row * cols, cols);
    }
}

HLM_CPU_CLONES
static void swiglu_bwd(const float *in, const float *dout, float *din, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        swiglu_row_bwd(in + row * 2 * cols, dout + row * cols, din + row * 2 * cols, cols);
    }
}

void hlm_cpu_activation_fwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    void *const *at = call->operands;
    if (op->activation == HLM_ACTIVATION_GELU) {
        gelu_fwd(at[0], at[1], at[2], op->m, op->n);
    } else {
        HLM_ASSERT(at[1] == NULL);
        swiglu_fwd(at[0], at[2], op->m, op->n);
    }
}

void hlm_cpu_activation_bwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    void *const *at = call->operands;
    if (op->activation == HLM_ACTIVATION_GELU) {
        gelu_bwd(at[0], at[1], at[2], at[3], op->m, op->n);
    } else {
        HLM_ASSERT(at[1] == NULL);
        swiglu_bwd(at[0], at[2], at[3], op->m, op->n);
    }
}

HLM_CPU_CLONES
static void bias_add(const float *bias, float *out, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        HLM_CPU_INDEPENDENT
        for (int64_t j = 0; j < cols; j++) {
            out[row * cols + j] += bias[j];
        }
    }
}

void hlm_cpu_bias_add(const struct hlm_cpu_call *call)
{
    bias_add(call->operands[0], call->operands[1], call->op->m, call->op->n);
}

HLM_CPU_CLONES
static void add(const float *a, const float *b, float *out, int64_t count)
{
    HLM_CPU_INDEPENDENT
    for (int64_t i = 0; i < count; i++) {
        out[i] = a[i] + b[i];
    }
}

void hlm_cpu_add(const struct hlm_cpu_call *call)
{
    void *const *at = call->operands;
    add(at[0], at[1], at[2], call->op->m * call->op->n);
}

HLM_CPU_CLONES
static void bias_residual(const float *in, const float *bias, const float *residual, float *out,
                          int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        HLM_CPU_INDEPENDENT
        for (int64_t j = 0; j < cols; j++) {
            const int64_t i = row * cols + j;
            out[i] = in[i] + bias[j] + residual[i];
        }
    }
}

void hlm_cpu_bias_residual(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    void *const *at = call->operands;
    if (at[1] == NULL) {
        add(at[0], at[2], at[3], op->m * op->n);
    } else {
        bias_residual(at[0], at[1], at[2], at[3], op->m, op->n);
    }
}

HLM_CPU_CLONES
static double sum_squares(const float *data, int64_t count)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        sum += (double)data[i] * (double)data[i];
    }
    return sum;
}

void hlm_cpu_sum_squares(const struct hlm_cpu_call *call)
{
    double *sum = call->operands[1];
    *sum += sum_squares(call->operands[0], call->op->m);
}

void hlm_cpu_fill_zero(const struct hlm_cpu_call *call)
{
    memset(call->operands[0], 0, (size_t)call->op->m * sizeof(float));
}

/* What of AdamW is the same for all elements. */
struct adamw {
    float grad_scale, beta1, beta2, keep, step_size, second_scale, eps;
};

HLM_CPU_CLONES
static void adamw(const struct adamw *c, const float *grad, float *param, float *first,
                  float *second, int64_t count)
{
    const float beta1 = c->beta1, beta2 = c->beta2, grad_scale = c->grad_scale;
    const float rest1 = 1.0f - beta1, rest2 = 1.0f - beta2, keep = c->keep;
    const float step_size = c->step_size, second_scale = c->second_scale, eps = c->eps;
    HLM_CPU_INDEPENDENT
    for (int64_t i = 0; i < count; i++) {
        const float g = grad[i] * grad_scale;
        const float m = beta1 * first[i] + rest1 * g;
        const float v = beta2 * second[i] + rest2 * (g * g);
        first[i] = m;
        second[i] = v;
        param[i] = keep * param[i] - step_size * m / (sqrtf(v) * second_scale + eps);
    }
}

/* Loshchilov and Hutter 2019, algorithm 2, in the arrangement of torch.optim.AdamW: decay first,
 * then lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps). */
void hlm_cpu_adamw(const struct hlm_cpu_call *call)
{
    const struct hlm_op_scalars *s = call->scalars;
    HLM_ASSERT(s != NULL && s->step >= 1);
    void *const *at = call->operands;
    const double step = (double)s->step;
    const struct adamw constants = {
        .grad_scale = (float)s->grad_scale,
        .beta1 = (float)s->beta1,
        .beta2 = (float)s->beta2,
        .keep = (float)(1.0 - s->learning_rate * s->weight_decay),
        .step_size = (float)(s->learning_rate / (1.0 - pow(s->beta1, step))),
        .second_scale = (float)(1.0 / sqrt(1.0 - pow(s->beta2, step))),
        .eps = (float)s->adam_eps,
    };
    adamw(&constants, at[0], at[1], at[2], at[3], call->op->m);
}
