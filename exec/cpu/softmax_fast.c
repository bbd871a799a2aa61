/* Softmax: over tiles of attention scores, and over the vocabulary with the cross-entropy. */
#include <math.h>

#include "exec/cpu/cpu.h"
#include "exec/cpu/vector.h"

HLM_CPU_INLINE int64_t seen_keys(const struct hlm_cpu_tile *tile, int64_t row)
{
    return tile->causal && tile->seen + row < tile->keys ? tile->seen + row : tile->keys;
}

HLM_CPU_INLINE void clear(float *data, int64_t from, int64_t to)
{
    if (from < to) {
        memset(data + from, 0, (size_t)(to - from) * sizeof(float));
    }
}

/* data = exp(data - max); returns the sum. */
HLM_CPU_INLINE float exp_row(float *data, int64_t n, float max)
{
    float sum = 0.0f;
    HLM_CPU_INDEPENDENT
    for (int64_t j = 0; j < n; j++) {
        const float e = hlm_cpu_exp(data[j] - max);
        data[j] = e;
        sum += e;
    }
    return sum;
}

HLM_CPU_CLONES
void hlm_cpu_softmax_tile(const struct hlm_cpu_tile *tile, float *scores, float *lse, float *scale)
{
    for (int64_t row = 0; row < tile->rows; row++) {
        float *data = scores + row * tile->stride;
        const int64_t n = seen_keys(tile, row);
        const float max = hlm_cpu_max(data, n);
        const float sum = exp_row(data, n, max);
        clear(data, n, tile->keys);
        lse[row] = (float)((double)max + log((double)sum));
        scale[row] = 1.0f / sum;
    }
}

HLM_CPU_CLONES
void hlm_cpu_scale_rows(float *data, int64_t rows, int64_t cols, int64_t stride, const float *scale)
{
    for (int64_t row = 0; row < rows; row++) {
        float *x = data + row * stride;
        const float factor = scale[row];
        HLM_CPU_INDEPENDENT
        for (int64_t j = 0; j < cols; j++) {
            x[j] *= factor;
        }
    }
}

HLM_CPU_CLONES
void hlm_cpu_dot_rows(const float *a, const float *b, int64_t rows, int64_t cols, int64_t stride,
                      float *dots)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *x = a + row * stride, *y = b + row * stride;
        float dot = 0.0f;
        for (int64_t j = 0; j < cols; j++) {
            dot += x[j] * y[j];
        }
        dots[row] = dot;
    }
}

HLM_CPU_CLONES
void hlm_cpu_softmax_grad_tile(const struct hlm_cpu_tile *tile, float *probs, int64_t probs_stride,
                               const float *lse, const float *dots, float factor, float *dprobs)
{
    for (int64_t row = 0; row < tile->rows; row++) {
        float *p = probs + row * probs_stride, *d = dprobs + row * tile->stride;
        const int64_t n = seen_keys(tile, row);
        const float dot = dots[row];
        if (lse != NULL) {
            exp_row(p, n, lse[row]);
            clear(p, n, tile->keys);
        }
        HLM_CPU_INDEPENDENT
        for (int64_t j = 0; j < n; j++) {
            d[j] = p[j] * (d[j] - dot) * factor;
        }
        clear(d, n, tile->keys);
    }
}

HLM_CPU_CLONES
static void xent_max(const float *logits, int64_t rows, int64_t cols, int64_t valid, float *max)
{
    for (int64_t row = 0; row < rows; row++) {
        max[row] = hlm_cpu_max(logits + row * cols, valid);
    }
}

void hlm_cpu_xent_max(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    HLM_ASSERT(op->valid_cols >= 0 && op->valid_cols <= op->n);
    xent_max(call->operands[0], op->m, op->n, op->valid_cols, call->operands[1]);
}

HLM_CPU_CLONES
static void exp_sums(const float *logits, int64_t rows, int64_t cols, int64_t valid,
                     const float *max, float *sums)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *x = logits + row * cols;
        const float shift = max[row];
        float sum = 0.0f;
        for (int64_t j = 0; j < valid; j++) {
            sum += hlm_cpu_exp(x[j] - shift);
        }
        sums[row] = sum;
    }
}

/* The target's column in this shard, or -1: ignored, or another shard's. */
static int64_t target_col(const struct hlm_op *op, const int32_t *targets, int64_t row)
{
    const int64_t col = targets[row] - op->first_row;
    return targets[row] >= 0 && col >= 0 && col < op->valid_cols ? col : -1;
}

void hlm_cpu_xent_sum(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *logits = call->operands[0], *max = call->operands[2];
    float *sums = call->operands[3], *of_target = sums + op->m;
    exp_sums(logits, op->m, op->n, op->valid_cols, max, sums);
    for (int64_t row = 0; row < op->m; row++) {
        const int64_t col = target_col(op, call->operands[1], row);
        of_target[row] = col < 0 ? 0.0f : logits[row * op->n + col] - max[row];
    }
}

HLM_CPU_CLONES
static void softmax_row(float *x, int64_t cols, int64_t valid, float max, float factor)
{
    HLM_CPU_INDEPENDENT
    for (int64_t j = 0; j < valid; j++) {
        x[j] = hlm_cpu_exp(x[j] - max) * factor;
    }
    clear(x, valid, cols);
}

void hlm_cpu_xent_grad(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    HLM_ASSERT(call->scalars != NULL);
    const int32_t *targets = call->operands[0];
    const float *max = call->operands[1], *sums = call->operands[2], *of_target = sums + op->m;
    float *logits = call->operands[3];
    const double scale = call->scalars->loss_scale;
    double loss = 0.0;
    for (int64_t row = 0; row < op->m; row++) {
        float *x = logits + row * op->n;
        if (targets[row] < 0) {
            clear(x, 0, op->n);
            continue;
        }
        loss += (log((double)sums[row]) - (double)of_target[row]) * scale;
        softmax_row(x, op->n, op->valid_cols, max[row], (float)(scale / (double)sums[row]));
        const int64_t col = target_col(op, targets, row);
        if (col >= 0) {
            x[col] -= (float)scale;
        }
    }
    if (op->counts_loss) {
        *(double *)call->operands[4] += loss;
    }
}
