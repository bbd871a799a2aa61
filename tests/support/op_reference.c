#include "tests/support/op_reference.h"

#include <math.h>

static void embed(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        const int64_t row = (int64_t)at[0][i / op->n] - op->first_row;
        at[2][i] = row >= 0 && row < op->k ? at[1][row * op->n + i % op->n] : 0.0;
    }
}

static int64_t num_shares(const struct hlm_op *op)
{
    return op->context_ranks > 1 ? op->context_ranks : 1;
}

/* The cp rank that has a position of a sequence, and the place there: by one piece of the sequence
 * a rank, or by two of them, handed out from the first to the last rank and back. */
static void find_position(const struct hlm_op *op, int64_t position, int64_t *rank, int64_t *place)
{
    const int64_t pieces = num_shares(op) * (op->context_chunks > 1 ? op->context_chunks : 1);
    const int64_t length = op->seq_len / pieces, piece = position / length;
    const bool on_the_way_back = piece >= num_shares(op);
    *rank = on_the_way_back ? pieces - 1 - piece : piece;
    *place = position % length + (on_the_way_back ? length : 0);
}

/* Position of a row in its sequence. */
static int64_t position_of(const struct hlm_op *op, int64_t row)
{
    const int64_t own = op->seq_len / num_shares(op);
    int64_t position = 0, rank = -1, place = -1;
    for (; rank != op->context_rank || place != row % own; position++) {
        find_position(op, position, &rank, &place);
    }
    return position - 1;
}

static void position(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        const int64_t place = position_of(op, op->first_row + i / op->n), col = i % op->n;
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
        const double angle = (double)position_of(op, row) *
                             pow(op->rope_theta, -2.0 * (double)pair / (double)op->rotary);
        double *low = at[0] + row * stride + head * op->head_dim + pair, *high = low + half;
        const double a = *low, b = *high;
        *low = a * cos(angle) - b * sin(angle);
        *high = b * cos(angle) + a * sin(angle);
    }
}

/* Where the key of a position stands, and behind it at a distance of kv_heads * head_dim its value:
 * in qkv, or among the gathered rows of all ranks. */
static const double *key_of(const struct hlm_op *op, double *const *at, int64_t sequence,
                            int64_t kv_head, int64_t position)
{
    const int64_t d = op->head_dim, own = op->seq_len / num_shares(op);
    int64_t rank = 0, place = 0;
    find_position(op, position, &rank, &place);
    const int64_t row = sequence * own + place;
    if (op->context_ranks > 1) {
        return at[4] + ((rank * op->m + row) * 2 * op->kv_heads + kv_head) * d;
    }
    return at[0] + (row * (op->heads + 2 * op->kv_heads) + op->heads + kv_head) * d;
}

/* Query i: row of the statistics. */
static void attend(const struct hlm_op *op, double *const *at, int64_t i)
{
    const int64_t own = op->seq_len / num_shares(op), d = op->head_dim;
    const int64_t sequence = i / (op->heads * own), head = i / own % op->heads;
    const int64_t row = sequence * own + i % own, kv_head = head / (op->heads / op->kv_heads);
    const double *q = at[0] + (row * (op->heads + 2 * op->kv_heads) + head) * d;
    const int64_t seen = op->causal ? position_of(op, row) + 1 : op->seq_len;
    double *probs = at[3] + i * op->seq_len, *out = at[1] + (row * op->heads + head) * d;
    double sum = 0.0;
    for (int64_t j = 0; j < op->seq_len; j++) {
        const double *k = key_of(op, at, sequence, kv_head, j);
        double score = 0.0;
        for (int64_t c = 0; c < d; c++) {
            score += q[c] * k[c];
        }
        probs[j] = j < seen ? exp(score / sqrt((double)d)) : 0.0;
        sum += probs[j];
    }
    for (int64_t c = 0; c < d; c++) {
        out[c] = 0.0;
    }
    for (int64_t j = 0; j < op->seq_len; j++) {
        const double *v = key_of(op, at, sequence, kv_head, j) + op->kv_heads * d;
        probs[j] /= sum;
        for (int64_t c = 0; c < d; c++) {
            out[c] += probs[j] * v[c];
        }
    }
    at[2][i] = log(sum);
}

static void attention(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->heads; i++) {
        attend(op, at, i);
    }
}

static void kv_split(const struct hlm_op *op, double *const *at)
{
    const int64_t queries = op->heads * op->head_dim;
    for (int64_t i = 0; i < op->m * op->n; i++) {
        at[1][i] = at[0][i / op->n * (queries + op->n) + queries + i % op->n];
    }
}

static void kv_join(const struct hlm_op *op, double *const *at)
{
    const int64_t queries = op->heads * op->head_dim;
    for (int64_t i = 0; i < op->m * op->n; i++) {
        at[1][i / op->n * (queries + op->n) + queries + i % op->n] = at[0][i];
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

/* The best of those that a row has not taken yet; the lowest where several are. */
static int64_t next_best(const struct hlm_op *op, const double *scores, const double *taken,
                         int64_t num_taken)
{
    int64_t best = -1;
    for (int64_t e = 0; e < op->k; e++) {
        bool is_taken = false;
        for (int64_t j = 0; j < num_taken; j++) {
            is_taken = is_taken || (int64_t)taken[j] == e;
        }
        if (!is_taken && (best < 0 || scores[e] > scores[best])) {
            best = e;
        }
    }
    return best;
}

static void route(const struct hlm_op *op, double *const *at)
{
    for (int64_t e = 0; e < op->k; e++) {
        at[3][e] = 0.0;
    }
    for (int64_t i = 0; i < op->m; i++) {
        const double *scores = at[0] + i * op->k;
        double *weights = at[1] + i * op->n, *choice = at[2] + i * op->n, sum = 0.0;
        for (int64_t j = 0; j < op->n; j++) {
            const int64_t turn = ((op->first_row + i) * op->n + j) % op->k;
            const int64_t expert = op->balanced ? turn : next_best(op, scores, choice, j);
            choice[j] = (double)expert;
            at[3][expert] += 1.0;
            sum += exp(scores[expert]);
        }
        for (int64_t j = 0; j < op->n; j++) {
            weights[j] = exp(scores[(int64_t)choice[j]]) / sum;
        }
    }
}

/* Where choice i of `num` stands: behind all of lower experts and earlier ones of its own. */
static int64_t place_of(const double *choice, int64_t num, int64_t i)
{
    int64_t place = 0;
    for (int64_t other = 0; other < num; other++) {
        place += choice[other] < choice[i] ||
                 ((int64_t)choice[other] == (int64_t)choice[i] && other < i);
    }
    return place;
}

static void permute(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        const int64_t one = i / op->n, col = i % op->n, row = one / (op->m / op->k);
        at[4][place_of(at[1], op->m, one) * op->n + col] = at[0][row * op->n + col];
    }
}

static void unpermute(const struct hlm_op *op, double *const *at)
{
    for (int64_t i = 0; i < op->m * op->n; i++) {
        at[3][i] = 0.0;
    }
    for (int64_t i = 0; i < op->k * op->n; i++) {
        const int64_t one = i / op->n, col = i % op->n, row = one / (op->k / op->m);
        at[3][row * op->n + col] +=
            (at[2] == NULL ? 1.0 : at[2][one]) * at[0][place_of(at[1], op->k, one) * op->n + col];
    }
}

/* A product for each rank and expert. */
static void grouped_gemm(const struct hlm_op *op, double *const *at)
{
    const bool reduces = op->layout == HLM_GEMM_NT;
    const int64_t parts = op->expert_parts > 1 ? op->expert_parts : 1;
    const int64_t num_counts = (int64_t)op->expert_ranks * op->num_experts;
    int64_t first = 0;
    for (int64_t i = 0; reduces && !op->accumulate && i < op->num_experts * op->m * op->n; i++) {
        at[2][i] = 0.0;
    }
    for (int64_t i = 0; i < num_counts; i++) {
        const int64_t rows = (int64_t)at[3][i], expert = i % op->num_experts;
        if (i % (num_counts / parts) == 0) {
            first = i / (num_counts / parts) * ((reduces ? op->k : op->m) / parts);
        }
        struct hlm_op one = *op;
        *(reduces ? &one.k : &one.m) = rows;
        one.accumulate = reduces || op->accumulate;
        double *const operands[] = {at[0] + first * (reduces ? op->m : op->k),
                                    at[1] + (reduces ? first : expert * op->k) * op->n,
                                    at[2] + (reduces ? expert * op->m : first) * op->n};
        gemm(&one, operands);
        first += rows;
    }
}

static void expert_activation(const struct hlm_op *op, double *const *at)
{
    activation(op, (double *const[]){at[0], NULL, at[2]});
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

/* Sizes of the operands: products of m n k b(atch) s(eq_len) h(eads) c(ontext ranks) Q (columns of
 * qkv) K (of its keys and values) A (columns in front of the activation) S (statistics of the norm)
 * e (num_experts) g (expert_ranks) 1 and 2; R: first_row + m. */
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
    [HLM_OP_ATTENTION_FWD] = {"mQ mn mh mhs cmK", attention},
    [HLM_OP_KV_SPLIT] = {"mQ mn", kv_split},
    [HLM_OP_KV_JOIN] = {"mn mQ", kv_join},
    [HLM_OP_ACTIVATION_FWD] = {"mA n mn", activation},
    [HLM_OP_BIAS_RESIDUAL] = {"mn n mn mn", bias_residual},
    [HLM_OP_ADD] = {"mn mn mn", add},
    [HLM_OP_SELECT_FWD] = {"msn mn", select_rows},
    [HLM_OP_SLICE_ROWS] = {"Rn mn", slice_rows},
    [HLM_OP_XENT_MAX] = {"mn m", xent_max},
    [HLM_OP_XENT_SUM] = {"mn m m 2m", xent_sum},
    [HLM_OP_ROUTE_FWD] = {"mk mn mn k", route},
    [HLM_OP_PERMUTE] = {"kn m m mn mn m", permute},
    [HLM_OP_UNPERMUTE] = {"kn k k mn", unpermute},
    [HLM_OP_GROUPED_GEMM] = {"mk kn mn eg", grouped_gemm},
    [HLM_OP_EXPERT_ACTIVATION_FWD] = {"mA eg mn", expert_activation},
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
    case 'K':
        return 2 * op->kv_heads * op->head_dim;
    case 'c':
        return num_shares(op);
    case 'A':
        return op->activation == HLM_ACTIVATION_SWIGLU ? 2 * op->n : op->n;
    case 'S':
        return op->norm == HLM_NORM_LAYERNORM ? 2 : 1;
    case 'e':
        return op->num_experts;
    case 'g':
        return op->expert_ranks;
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
    if (op->kind == HLM_OP_GROUPED_GEMM) {
        counts[op->layout == HLM_GEMM_NT ? 2 : 1] *= op->num_experts;
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
