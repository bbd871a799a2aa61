#include "tests/support/op_reference.h"

#include <math.h>

static void embed(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        const int64_t row = (int64_t)at[0][i / op->n] - op->first_row;
        at[2][i] = row >= 0 && row < op->k ? at[1][row * op->n + i % op->n] : 0.0;
    }
}

static void position(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        const int64_t place = (op->first_row + i / op->n) % op->seq_len, col = i % op->n;
        at[2][i] += at[0][place * op->n + col] + (at[1] == NULL ? 0.0 : at[1][col]);
    }
}

static void patchify(const struct hlm_op *op, double *const *at)
{
    const int64_t patches = op->m / op->batch, p = op->k, channels = op->n / (p * p);
    const int64_t per_side = (int64_t)round(sqrt((double)patches)), side = per_side * p;
    for (int64_t i = 0; i < op->m * op->n; i++) {
        const int64_t image = i / op->n / patches, patch = i / op->n % patches, col = i % op->n;
        const int64_t c = col / (p * p), y = patch / per_side * p + col / p % p;
        const int64_t x = patch % per_side * p + col % p;
        at[1][i] = at[0][((image * channels + c) * side + y) * side + x];
    }
}

static void patch_assemble(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        const int64_t row = i / op->n, col = i % op->n, place = row % op->seq_len;
        const int64_t patch = row / op->seq_len * (op->seq_len - 1) + place - 1;
        at[3][i] =
            (place == 0 ? at[1][col] : at[0][patch * op->n + col]) + at[2][place * op->n + col];
    }
}

static void norm(const struct hlm_op *op, double *const *at)
{
    const bool centred = op->norm == HLM_NORM_LAYERNORM;
    for (int64_t i = 0; i < op->m; i++) {
        const double *x = at[0] + i * op->n;
        double mean = 0.0, variance = 0.0;
        for (int64_t j = 0; j < op->n && centred; j++) {
            mean += x[j] / (double)op->n;
        }
        for (int64_t j = 0; j < op->n; j++) {
            variance += (x[j] - mean) * (x[j] - mean) / (double)op->n;
        }
        const double rstd = 1.0 / sqrt(variance + op->eps);
        for (int64_t j = 0; j < op->n; j++) {
            at[3][i * op->n + j] =
                (x[j] - mean) * rstd * at[1][j] + (at[2] == NULL ? 0.0 : at[2][j]);
        }
        if (centred) {
            at[4][2 * i] = mean;
        }
        at[4][centred ? 2 * i + 1 : i] = rstd;
    }
}

static void gemm(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m; i++) {
        for (int64_t j = 0; j < op->n; j++) {
            double sum = op->accumulate ? at[2][i * op->n + j] : 0.0;
            for (int64_t l = 0; l < op->k; l++) {
                sum += (op->layout == HLM_GEMM_NT ? at[0][l * op->m + i] : at[0][i * op->k + l]) *
                       (op->layout == HLM_GEMM_TN ? at[1][j * op->k + l] : at[1][l * op->n + j]);
            }
            at[2][i * op->n + j] = sum;
        }
    }
}

static void bias_add(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        at[1][i] += at[0][i % op->n];
    }
}

static void rope(const struct hlm_op *op, double *const *at)
{
    const int64_t heads = op->heads + op->kv_heads, half = op->rotary / 2;
    const int64_t stride = (heads + op->kv_heads) * op->head_dim;
    for (int64_t i = 0; i < op->m * heads * half; i++) {
        const int64_t row = i / (heads * half), head = i / half % heads, pair = i % half;
        const double angle = (double)(row % op->seq_len) *
                             pow(op->rope_theta, -2.0 * (double)pair / (double)op->rotary);
        double *low = at[0] + row * stride + head * op->head_dim + pair, *high = low + half;
        const double a = *low, b = *high;
        *low = a * cos(angle) - b * sin(angle);
        *high = b * cos(angle) + a * sin(angle);
    }
}

/* One query: probabilities into probs[seq_len]; returns the log-sum-exp. */
static double query_probs(const struct hlm_op *op, const double *q, const double *k, int64_t stride,
                          int64_t place, double *probs)
{
    const int64_t seen = op->causal ? place + 1 : op->seq_len;
    double sum = 0.0;
    for (int64_t j = 0; j < op->seq_len; j++) {
        double score = 0.0;
        for (int64_t c = 0; c < op->head_dim; c++) {
            score += q[c] * k[j * stride + c];
        }
        probs[j] = j < seen ? exp(score / sqrt((double)op->head_dim)) : 0.0;
        sum += probs[j];
    }
    for (int64_t j = 0; j < op->seq_len; j++) {
        probs[j] /= sum;
    }
    return log(sum);
}

static void attention(const struct hlm_op *op, double *const *at)
{
    const int64_t s = op->seq_len, d = op->head_dim, group = op->heads / op->kv_heads;
    const int64_t stride = (op->heads + 2 * op->kv_heads) * d;
    for (int64_t i = 0; i < op->batch * op->heads * s; i++) {
        const int64_t sequence = i / (op->heads * s), head = i / s % op->heads, place = i % s;
        const double *row = at[0] + sequence * s * stride;
        const double *k = row + (op->heads + head / group) * d, *v = k + op->kv_heads * d;
        double *probs = at[3] + i * s;
        at[2][i] = query_probs(op, row + place * stride + head * d, k, stride, place, probs);
        for (int64_t c = 0; c < d; c++) {
            double sum = 0.0;
            for (int64_t j = 0; j < s; j++) {
                sum += probs[j] * v[j * stride + c];
            }
            at[1][((sequence * s + place) * op->heads + head) * d + c] = sum;
        }
    }
}

static void activation(const struct hlm_op *op, double *const *at)
{
    const double factor = sqrt(2.0 / 3.14159265358979323846);
    for (int64_t i = 0; i < op->m * op->n; i++) {
        const int64_t row = i / op->n, col = i % op->n;
        if (op->activation == HLM_ACTIVATION_GELU) {
            const double x = at[0][i] + (at[1] == NULL ? 0.0 : at[1][col]);
            at[2][i] = 0.5 * x * (1.0 + tanh(factor * (x + 0.044715 * x * x * x)));
        } else {
            const double *gate = at[0] + 2 * row * op->n + col;
            at[2][i] = gate[0] / (1.0 + exp(-gate[0])) * gate[op->n];
        }
    }
}

static void bias_residual(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        at[3][i] = at[0][i] + (at[1] == NULL ? 0.0 : at[1][i % op->n]) + at[2][i];
    }
}

static void add(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        at[2][i] = at[0][i] + at[1][i];
    }
}

static void select_rows(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        at[1][i] = at[0][i / op->n * op->seq_len * op->n + i % op->n];
    }
}

static void slice_rows(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        at[1][i] = at[0][op->first_row * op->n + i];
    }
}

static void xent_max(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m; i++) {
        at[1][i] = (double)-INFINITY;
        for (int64_t j = 0; j < op->valid_cols; j++) {
            at[1][i] = fmax(at[1][i], at[0][i * op->n + j]);
        }
    }
}

static void xent_sum(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m; i++) {
        at[3][i] = at[3][op->m + i] = 0.0;
        for (int64_t j = 0; j < op->valid_cols; j++) {
            const double logit = at[0][i * op->n + j] - at[2][i];
            at[3][i] += exp(logit);
            at[3][op->m + i] += (int64_t)at[1][i] == op->first_row + j ? logit : 0.0;
        }
    }
}

static void fill_zero(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m; i++) {
        at[0][i] = 0.0;
    }
}

static void sum_squares(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m; i++) {
        at[1][0] += at[0][i] * at[0][i];
    }
}

/* Sizes of the operands: products of m n k b(atch) s(eq_len) h(eads) Q (columns of qkv) A (columns
 * in front of the activation) S (statistics of the norm) 1 and 2; R: first_row + m. */
static const struct reference {
    const char *sizes;
    void (*run)(const struct hlm_op *op, double *const *at);
} references[HLM_NUM_OPS] = {
    [HLM_OP_EMBED_FWD] = {"m kn mn", embed},
    [HLM_OP_POSITION_FWD] = {"sn n mn", position},
    [HLM_OP_PATCHIFY] = {"mn mn", patchify},
    [HLM_OP_PATCH_ASSEMBLE_FWD] = {"mn n sn mn", patch_assemble},
    [HLM_OP_NORM_FWD] = {"mn n n mn mS", norm},
    [HLM_OP_GEMM] = {"mk kn mn", gemm},
    [HLM_OP_BIAS_ADD] = {"n mn", bias_add},
    [HLM_OP_ROPE_FWD] = {"mQ", rope},
    [HLM_OP_ATTENTION_FWD] = {"mQ mn mh bhss", attention},
    [HLM_OP_ACTIVATION_FWD] = {"mA n mn", activation},
    [HLM_OP_BIAS_RESIDUAL] = {"mn n mn mn", bias_residual},
    [HLM_OP_ADD] = {"mn mn mn", add},
    [HLM_OP_SELECT_FWD] = {"msn mn", select_rows},
    [HLM_OP_SLICE_ROWS] = {"Rn mn", slice_rows},
    [HLM_OP_XENT_MAX] = {"mn m", xent_max},
    [HLM_OP_XENT_SUM] = {"mn m m 2m", xent_sum},
    [HLM_OP_FILL_ZERO] = {"m", fill_zero},
    [HLM_OP_SUM_SQUARES] = {"m 1", sum_squares},
};

static int64_t size_of(const struct hlm_op *op, char letter)
{
    switch (letter) {
    case 'm':
        return op->m;
    case 'n':
        return op->n;
    case 'k':
        return op->k;
    case 'b':
        return op->batch;
    case 's':
        return op->seq_len;
    case 'h':
        return op->heads;
    case 'Q':
        return (op->heads + 2 * op->kv_heads) * op->head_dim;
    case 'A':
        return op->activation == HLM_ACTIVATION_SWIGLU ? 2 * op->n : op->n;
    case 'S':
        return op->norm == HLM_NORM_LAYERNORM ? 2 : 1;
    case 'R':
        return op->first_row + op->m;
    default:
        return letter - '0';
    }
}

void hlm_op_reference_counts(const struct hlm_op *op, int64_t counts[HLM_OP_MAX_OPERANDS])
{
    const char *sizes = references[op->kind].sizes;
    for (int operand = 0; operand < HLM_OP_MAX_OPERANDS; operand++) {
        counts[operand] = sizes != NULL && *sizes != '\0' ? 1 : 0;
        for (; sizes != NULL && *sizes != '\0' && *sizes != ' '; sizes++) {
            counts[operand] *= size_of(op, *sizes);
        }
        sizes += sizes != NULL && *sizes == ' ';
    }
    /* The class token stands in the output only. */
    if (op->kind == HLM_OP_PATCH_ASSEMBLE_FWD) {
        counts[0] -= op->batch * op->n;
    }
}

bool hlm_op_reference(const struct hlm_op *op, double *const operands[HLM_OP_MAX_OPERANDS])
{
    if (references[op->kind].run == NULL) {
        return false;
    }
    references[op->kind].run(op, operands);
    return true;
}
