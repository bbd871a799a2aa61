/* Layer norm, RMS norm, and sums over rows. */
#include <math.h>

#include "exec/cpu/cpu.h"
#include "exec/cpu/vector.h"

/* Column sums are taken over this many rows in fp32 before they are added to the result: rounding
 * errors grow with this number and the number of blocks, not with that of rows. */
enum { BLOCK_ROWS = 64 };

HLM_CPU_INLINE float sum_of(const float *x, int64_t n)
{
    float sum = 0.0f;
    for (int64_t j = 0; j < n; j++) {
        sum += x[j];
    }
    return sum;
}

HLM_CPU_INLINE float sum_squares_about(const float *x, float centre, int64_t n)
{
    float sum = 0.0f;
    for (int64_t j = 0; j < n; j++) {
        sum += (x[j] - centre) * (x[j] - centre);
    }
    return sum;
}

/* out = (x - mean) * rstd * weight + bias; mean 0 and bias NULL for RMS norm. */
HLM_CPU_INLINE void norm_row(const float *x, const float *weight, const float *bias, float mean,
                             float rstd, float *out, int64_t n)
{
    if (bias == NULL) {
        HLM_CPU_INDEPENDENT
        for (int64_t j = 0; j < n; j++) {
            out[j] = (x[j] - mean) * rstd * weight[j];
        }
        return;
    }
    HLM_CPU_INDEPENDENT
    for (int64_t j = 0; j < n; j++) {
        out[j] = (x[j] - mean) * rstd * weight[j] + bias[j];
    }
}

struct norm_fwd {
    const float *in, *weight, *bias;
    float *out, *stats;
    int64_t rows, cols;
    double eps;
    bool centred;
};

HLM_CPU_CLONES
static void norm_fwd(const struct norm_fwd *a)
{
    const int64_t n = a->cols, num_stats = a->centred ? 2 : 1;
    for (int64_t row = 0; row < a->rows; row++) {
        const float *x = a->in + row * n;
        const float mean = a->centred ? sum_of(x, n) / (float)n : 0.0f;
        const double variance = (double)sum_squares_about(x, mean, n) / (double)n;
        const float rstd = (float)(1.0 / sqrt(variance + a->eps));
        norm_row(x, a->weight, a->bias, mean, rstd, a->out + row * n, n);
        float *stats = a->stats + row * num_stats;
        stats[0] = mean;
        stats[num_stats - 1] = rstd;
    }
}

void hlm_cpu_norm_fwd(const struct hlm_cpu_call *call)
{
    void *const *at = call->operands;
    const struct hlm_op *op = call->op;
    HLM_ASSERT(op->n > 0 && op->head_dim == 0);
    norm_fwd(&(struct norm_fwd){.in = at[0],
                                .weight = at[1],
                                .bias = at[2],
                                .out = at[3],
                                .stats = at[4],
                                .rows = op->m,
                                .cols = op->n,
                                .eps = op->eps,
                                .centred = op->norm == HLM_NORM_LAYERNORM});
}

struct norm_bwd {
    const float *dout, *in, *weight, *stats, *dresidual;
    float *din, *dweight, *dbias, *scratch;
    int64_t rows, cols;
    bool centred;
};

HLM_CPU_INLINE void add_to(float *to, float *from, int64_t n)
{
    HLM_CPU_INDEPENDENT
    for (int64_t j = 0; j < n; j++) {
        to[j] += from[j];
        from[j] = 0.0f;
    }
}

/* With y = (x - mean) rstd and g = dout weight: din = rstd (g - sum(g) / n - y sum(g y) / n),
 * without the first sum for RMS norm. The first pass over the row also adds to the column sums of
 * dout y (dweight) and dout (dbias). din may be dout or dresidual. */
HLM_CPU_INLINE void norm_row_bwd(const struct norm_bwd *a, int64_t row, float mean, float rstd,
                                 float *dweight, float *dbias)
{
    const int64_t n = a->cols;
    const float *x = a->in + row * n, *dout = a->dout + row * n, *weight = a->weight;
    float sum = 0.0f, dot = 0.0f;
    HLM_CPU_INDEPENDENT
    for (int64_t j = 0; j < n; j++) {
        const float y = (x[j] - mean) * rstd, g = dout[j] * weight[j];
        sum += g;
        dot += g * y;
        dweight[j] += dout[j] * y;
        dbias[j] += dout[j];
    }
    const float shift = a->centred ? sum / (float)n : 0.0f, slope = dot / (float)n;
    float *din = a->din + row * n;
    const float *dresidual = a->dresidual == NULL ? NULL : a->dresidual + row * n;
    HLM_CPU_INDEPENDENT
    for (int64_t j = 0; j < n; j++) {
        const float y = (x[j] - mean) * rstd, g = dout[j] * weight[j];
        din[j] = rstd * (g - shift - y * slope) + (dresidual == NULL ? 0.0f : dresidual[j]);
    }
}

HLM_CPU_CLONES
static void norm_bwd(const struct norm_bwd *a)
{
    const int64_t n = a->cols, num_stats = a->centred ? 2 : 1;
    float *dweight = a->scratch, *dbias = a->scratch + n;
    memset(a->scratch, 0, (size_t)(2 * n) * sizeof(float));
    for (int64_t row = 0; row < a->rows; row++) {
        const float *stats = a->stats + row * num_stats;
        norm_row_bwd(a, row, a->centred ? stats[0] : 0.0f, stats[num_stats - 1], dweight, dbias);
        if ((row + 1) % BLOCK_ROWS == 0 || row + 1 == a->rows) {
            add_to(a->dweight, dweight, n);
            if (a->dbias != NULL) {
                add_to(a->dbias, dbias, n);
            }
        }
    }
}

int64_t hlm_cpu_scratch_norm_bwd(const struct hlm_op *op)
{
    return 2 * op->n;
}

void hlm_cpu_norm_bwd(const struct hlm_cpu_call *call)
{
    void *const *at = call->operands;
    HLM_ASSERT(call->op->n > 0 && call->op->head_dim == 0);
    norm_bwd(&(struct norm_bwd){.dout = at[0],
                                .in = at[1],
                                .weight = at[2],
                                .stats = at[3],
                                .dresidual = at[4],
                                .din = at[5],
                                .dweight = at[6],
                                .dbias = at[7],
                                .scratch = call->scratch,
                                .rows = call->op->m,
                                .cols = call->op->n,
                                .centred = call->op->norm == HLM_NORM_LAYERNORM});
}

/* Four rows a turn: the sums are loaded and stored once for the four. */
HLM_CPU_INLINE void add_rows(const float *d, int64_t rows, int64_t n, float *sums)
{
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4) {
        const float *r = d + row * n;
        HLM_CPU_INDEPENDENT
        for (int64_t j = 0; j < n; j++) {
            sums[j] += (r[j] + r[n + j]) + (r[2 * n + j] + r[3 * n + j]);
        }
    }
    for (; row < rows; row++) {
        const float *r = d + row * n;
        HLM_CPU_INDEPENDENT
        for (int64_t j = 0; j < n; j++) {
            sums[j] += r[j];
        }
    }
}

HLM_CPU_CLONES
static void bias_grad(const float *d, int64_t rows, int64_t n, float *scratch, float *dbias)
{
    memset(scratch, 0, (size_t)n * sizeof(float));
    for (int64_t row = 0; row < rows; row += BLOCK_ROWS) {
        const int64_t block = rows - row < BLOCK_ROWS ? rows - row : BLOCK_ROWS;
        add_rows(d + row * n, block, n, scratch);
        add_to(dbias, scratch, n);
    }
}

int64_t hlm_cpu_scratch_bias_grad(const struct hlm_op *op)
{
    return op->n;
}

void hlm_cpu_bias_grad(const struct hlm_cpu_call *call)
{
    bias_grad(call->operands[0], call->op->m, call->op->n, call->scratch, call->operands[1]);
}
