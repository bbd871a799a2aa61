/* Matrix products, and attention made of them. All go to OpenBLAS with one thread. */
#include <cblas.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "exec/cpu/cpu.h"

/* A row-major matrix: an element and the distance of its rows. */
struct matrix {
    float *data;
    int64_t stride;
};

static int to_blas(int64_t size)
{
    HLM_ASSERT(size >= 0 && size <= INT_MAX);
    return (int)size;
}

/* A build of OpenBLAS without threads hands the same scratch to two callers at once (0.3.21: wrong
 * products for ranks that are threads of one process), so its calls take turns. The lock belongs to
 * the library's hidden state, which is one per process like this. */
static void lock_serial_blas(bool lock)
{
    static pthread_mutex_t serial_blas = PTHREAD_MUTEX_INITIALIZER;
    if (openblas_get_parallel() == OPENBLAS_SEQUENTIAL) {
        (void)(lock ? pthread_mutex_lock(&serial_blas) : pthread_mutex_unlock(&serial_blas));
    }
}

/* c[m, n] = factor * op(a) op(b) + keep * c */
static void multiply(CBLAS_TRANSPOSE trans_a, CBLAS_TRANSPOSE trans_b, int64_t m, int64_t n,
                     int64_t k, float factor, struct matrix a, struct matrix b, float keep,
                     struct matrix c)
{
    lock_serial_blas(true);
    cblas_sgemm(CblasRowMajor, trans_a, trans_b, to_blas(m), to_blas(n), to_blas(k), factor, a.data,
                to_blas(a.stride), b.data, to_blas(b.stride), keep, c.data, to_blas(c.stride));
    lock_serial_blas(false);
}

void hlm_cpu_multiply(enum hlm_gemm_layout layout, int64_t m, int64_t n, int64_t k, const float *a,
                      const float *b, float *c, bool accumulate)
{
    static const struct {
        CBLAS_TRANSPOSE a, b;
    } transposes[] = {
        [HLM_GEMM_TN] = {CblasNoTrans, CblasTrans},
        [HLM_GEMM_NN] = {CblasNoTrans, CblasNoTrans},
        [HLM_GEMM_NT] = {CblasTrans, CblasNoTrans},
    };
    HLM_ASSERT(layout == HLM_GEMM_TN || layout == HLM_GEMM_NN || layout == HLM_GEMM_NT);
    const struct matrix left = {(float *)a, layout == HLM_GEMM_NT ? m : k};
    const struct matrix right = {(float *)b, layout == HLM_GEMM_TN ? k : n};
    multiply(transposes[layout].a, transposes[layout].b, m, n, k, 1.0f, left, right,
             accumulate ? 1.0f : 0.0f, (struct matrix){c, n});
}

void hlm_cpu_gemm(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    hlm_cpu_multiply(op->layout, op->m, op->n, op->k, call->operands[0], call->operands[1],
                     call->operands[2], op->accumulate);
}

/* Attention works on blocks of queries of one head against all the keys that they see. The size is
 * a compromise: a product has to be tall enough to be fast, and causal attention computes half a
 * block per block in vain. */
enum { QUERY_ROWS = 64 };

struct head {
    struct matrix q, k, v; /* in qkv, or dq, dk, dv in dqkv; k, v: all positions of the sequence */
    int64_t first_row;     /* of the sequence */
    int64_t index, of_stats; /* among the heads; among all (sequence, head) */
    int64_t kv_index;
    bool starts_group, ends_group; /* the first and last query head of its key-value head */
};

static int64_t query_block(const struct hlm_op *op)
{
    return op->seq_len < QUERY_ROWS ? op->seq_len : QUERY_ROWS;
}

/* Rows of score tiles start at cache lines. */
static int64_t tile_stride(const struct hlm_op *op)
{
    return (op->seq_len + 15) / 16 * 16;
}

/* Two tiles, and two numbers per query. */
static int64_t tiles_scratch(const struct hlm_op *op)
{
    return 2 * query_block(op) * tile_stride(op) + 2 * query_block(op);
}

/* Keys and values of a head, or their gradients, where ranks share a sequence. */
static int64_t ordered_scratch(const struct hlm_op *op)
{
    return op->context_ranks > 1 ? 2 * op->seq_len * op->head_dim : 0;
}

int64_t hlm_cpu_scratch_attention(const struct hlm_op *op)
{
    return tiles_scratch(op) + 2 * ordered_scratch(op);
}

/* Positions of a sequence on this rank, and those of them that follow each other. */
static int64_t own_len(const struct hlm_op *op)
{
    const struct hlm_context context = hlm_op_context(op);
    return hlm_context_own_len(&context, op->seq_len);
}

static int64_t piece_len(const struct hlm_op *op)
{
    const struct hlm_context context = hlm_op_context(op);
    return hlm_context_chunk_len(&context, op->seq_len);
}

static void check_attention(const struct hlm_op *op)
{
    HLM_ASSERT(op->m == op->batch * own_len(op) && op->n == op->heads * op->head_dim);
    HLM_ASSERT(op->kv_heads > 0 && op->heads % op->kv_heads == 0 && op->window == 0);
}

static struct head head_of(const struct hlm_op *op, float *qkv, int64_t sequence, int64_t index)
{
    const int64_t group = op->heads / op->kv_heads, d = op->head_dim;
    const int64_t stride = (op->heads + 2 * op->kv_heads) * d;
    const int64_t first_row = sequence * own_len(op);
    float *row = qkv + first_row * stride;
    float *k = row + (op->heads + index / group) * d;
    return (struct head){
        .q = {row + index * d, stride},
        .k = {k, stride},
        .v = {k + op->kv_heads * d, stride},
        .first_row = first_row,
        .index = index,
        .of_stats = sequence * op->heads + index,
        .kv_index = index / group,
        .starts_group = index % group == 0,
        .ends_group = index % group == group - 1,
    };
}

static void set_ordered(const struct hlm_op *op, float *ordered, struct head *head)
{
    head->k = (struct matrix){ordered, op->head_dim};
    head->v = (struct matrix){ordered + op->seq_len * op->head_dim, op->head_dim};
}

/* The head of the operand qkv; its keys and values are of all ranks that share the sequence. */
static struct head open_head(const struct hlm_cpu_call *call, const float *kv, int64_t sequence,
                             int64_t index)
{
    const struct hlm_op *op = call->op;
    struct head head = head_of(op, call->operands[0], sequence, index);
    if (op->context_ranks > 1) {
        float *ordered = call->scratch + tiles_scratch(op);
        if (head.starts_group) {
            hlm_cpu_context_load(op, kv, sequence, head.kv_index, ordered);
        }
        set_ordered(op, ordered, &head);
    }
    return head;
}

static struct matrix rows_from(struct matrix a, int64_t first)
{
    return (struct matrix){a.data + first * a.stride, a.stride};
}

/* The rows of a tensor [m, heads * d] (out, dout) of one head, from query `first` on. */
static struct matrix head_rows(const struct hlm_op *op, float *data, const struct head *head,
                               int64_t first)
{
    return (struct matrix){data + (head->first_row + first) * op->n + head->index * op->head_dim,
                           op->n};
}

/* Index of a query's first statistic, and of its first kept probability. */
static int64_t stats_at(const struct hlm_op *op, const struct head *head, int64_t first)
{
    return head->of_stats * own_len(op) + first;
}

static int64_t probs_at(const struct hlm_op *op, const struct head *head, int64_t first)
{
    return stats_at(op, head, first) * op->seq_len;
}

static struct hlm_cpu_tile tile_at(const struct hlm_op *op, int64_t first, int64_t stride)
{
    const int64_t left = piece_len(op) - first % piece_len(op);
    const int64_t rows = left < QUERY_ROWS ? left : QUERY_ROWS;
    const int64_t position = hlm_op_position(op, first);
    return (struct hlm_cpu_tile){
        .rows = rows,
        .keys = op->causal ? position + rows : op->seq_len,
        .stride = stride,
        .seen = position + 1,
        .causal = op->causal,
    };
}

static float score_factor(const struct hlm_op *op)
{
    return (float)(1.0 / sqrt((double)op->head_dim));
}

/* scores = q k^T / sqrt(d) of one tile */
static void score(const struct hlm_op *op, const struct head *head, int64_t first,
                  const struct hlm_cpu_tile *tile, struct matrix scores)
{
    multiply(CblasNoTrans, CblasTrans, tile->rows, tile->keys, op->head_dim, score_factor(op),
             rows_from(head->q, first), head->k, 0.0f, scores);
}

/* Kept probabilities are 0 also right of the tile. */
static void clear_unseen(const struct hlm_op *op, const struct hlm_cpu_tile *tile, float *probs)
{
    for (int64_t row = 0; row < tile->rows && tile->keys < op->seq_len; row++) {
        memset(probs + row * op->seq_len + tile->keys, 0,
               (size_t)(op->seq_len - tile->keys) * sizeof(float));
    }
}

/* out = softmax(scores) v. Where probabilities are not kept, it is the narrow product that is
 * divided by the sums, not the wide tile. */
static void attend(const struct hlm_cpu_call *call, const struct head *head, int64_t first)
{
    const struct hlm_op *op = call->op;
    float *probs = call->operands[3];
    float *lse = (float *)call->operands[2] + stats_at(op, head, first);
    const struct hlm_cpu_tile tile =
        tile_at(op, first, probs == NULL ? tile_stride(op) : op->seq_len);
    float *scale = call->scratch + 2 * query_block(op) * tile_stride(op);
    const struct matrix scores = {probs == NULL ? call->scratch : probs + probs_at(op, head, first),
                                  tile.stride};
    const struct matrix out = head_rows(op, call->operands[1], head, first);
    score(op, head, first, &tile, scores);
    hlm_cpu_softmax_tile(&tile, scores.data, lse, scale);
    if (probs != NULL) {
        hlm_cpu_scale_rows(scores.data, tile.rows, tile.keys, tile.stride, scale);
        clear_unseen(op, &tile, scores.data);
    }
    multiply(CblasNoTrans, CblasNoTrans, tile.rows, op->head_dim, tile.keys, 1.0f, scores, head->v,
             0.0f, out);
    if (probs == NULL) {
        hlm_cpu_scale_rows(out.data, tile.rows, op->head_dim, out.stride, scale);
    }
}

/* The block of queries behind the one at `first`, or in front of it: blocks end with a piece. */
static int64_t next_block(const struct hlm_op *op, int64_t first)
{
    const int64_t end = (first / piece_len(op) + 1) * piece_len(op);
    return first + QUERY_ROWS < end ? first + QUERY_ROWS : end;
}

static int64_t block_before(const struct hlm_op *op, int64_t end)
{
    const int64_t piece = (end - 1) / piece_len(op) * piece_len(op);
    return end > 0 ? piece + (end - 1 - piece) / QUERY_ROWS * QUERY_ROWS : -1;
}

void hlm_cpu_attention_fwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    check_attention(op);
    for (int64_t sequence = 0; sequence < op->batch; sequence++) {
        for (int64_t index = 0; index < op->heads; index++) {
            const struct head head = open_head(call, call->operands[4], sequence, index);
            for (int64_t first = 0; first < own_len(op); first = next_block(op, first)) {
                attend(call, &head, first);
            }
        }
    }
}

/* The tile's probabilities: kept, or scores that hlm_cpu_softmax_grad_tile makes probabilities. */
static struct matrix probs_of(const struct hlm_cpu_call *call, const struct head *head,
                              int64_t first, const struct hlm_cpu_tile *tile)
{
    const struct hlm_op *op = call->op;
    float *kept = call->operands[4];
    if (kept != NULL) {
        return (struct matrix){kept + probs_at(op, head, first), op->seq_len};
    }
    const struct matrix scores = {call->scratch, tile->stride};
    score(op, head, first, tile, scores);
    return scores;
}

/* One block of queries: with P the probabilities and D the row sums of dout * out,
 * dv += P^T dout, dP = dout v^T, dS = P (dP - D) / sqrt(d), dq = dS k, dk += dS^T q
 * (Dao et al. 2022, section 3 and appendix B.4). keep: 0 for the first block that reaches these
 * keys. */
static void attend_bwd(const struct hlm_cpu_call *call, const struct head *head,
                       const struct head *grad, int64_t first, float keep)
{
    const struct hlm_op *op = call->op;
    const struct hlm_cpu_tile tile = tile_at(op, first, tile_stride(op));
    const int64_t tile_size = query_block(op) * tile.stride, d = op->head_dim;
    const float *lse = (const float *)call->operands[3] + stats_at(op, head, first);
    const struct matrix out = head_rows(op, call->operands[1], head, first);
    const struct matrix dout = head_rows(op, call->operands[2], head, first);
    const struct matrix dscores = {call->scratch + tile_size, tile.stride};
    float *dots = call->scratch + 2 * tile_size;
    const struct matrix probs = probs_of(call, head, first, &tile);
    multiply(CblasNoTrans, CblasTrans, tile.rows, tile.keys, d, 1.0f, dout, head->v, 0.0f, dscores);
    hlm_cpu_dot_rows(out.data, dout.data, tile.rows, d, op->n, dots);
    hlm_cpu_softmax_grad_tile(&tile, probs.data, probs.stride,
                              call->operands[4] == NULL ? lse : NULL, dots, score_factor(op),
                              dscores.data);
    multiply(CblasTrans, CblasNoTrans, tile.keys, d, tile.rows, 1.0f, probs, dout, keep, grad->v);
    multiply(CblasNoTrans, CblasNoTrans, tile.rows, d, tile.keys, 1.0f, dscores, head->k, 0.0f,
             rows_from(grad->q, first));
    multiply(CblasTrans, CblasNoTrans, tile.keys, d, tile.rows, 1.0f, dscores,
             rows_from(head->q, first), keep, grad->k);
}

/* The columns of keys and values of dqkv, whose gradients stand in dkv where ranks share them. */
static void clear_own_keys(const struct hlm_op *op, float *dqkv)
{
    const int64_t queries = op->heads * op->head_dim, keys = 2 * op->kv_heads * op->head_dim;
    for (int64_t row = 0; row < op->m; row++) {
        memset(dqkv + row * (queries + keys) + queries, 0, (size_t)keys * sizeof(float));
    }
}

/* The head of the operand dqkv. Where ranks share the sequence, this one may have no query that
 * sees the last keys: their gradients start at zero. */
static struct head open_grad(const struct hlm_cpu_call *call, int64_t sequence, int64_t index)
{
    const struct hlm_op *op = call->op;
    struct head grad = head_of(op, call->operands[5], sequence, index);
    if (op->context_ranks > 1) {
        float *ordered = call->scratch + tiles_scratch(op) + ordered_scratch(op);
        if (grad.starts_group) {
            memset(ordered, 0, (size_t)ordered_scratch(op) * sizeof(float));
        }
        set_ordered(op, ordered, &grad);
    }
    return grad;
}

/* Blocks from the last to the first: the last sees all keys of a sequence that is not shared, so it
 * sets dk and dv and the others add. */
void hlm_cpu_attention_bwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const bool shared = op->context_ranks > 1;
    check_attention(op);
    if (shared) {
        clear_own_keys(op, call->operands[5]);
    }
    const int64_t last = block_before(op, own_len(op));
    for (int64_t sequence = 0; sequence < op->batch; sequence++) {
        for (int64_t index = 0; index < op->heads; index++) {
            const struct head head = open_head(call, call->operands[6], sequence, index);
            const struct head grad = open_grad(call, sequence, index);
            for (int64_t first = last; first >= 0; first = block_before(op, first)) {
                const bool sets = !shared && first == last && head.starts_group;
                attend_bwd(call, &head, &grad, first, sets ? 0.0f : 1.0f);
            }
            if (shared && head.ends_group) {
                hlm_cpu_context_store(op, call->operands[7], sequence, head.kv_index, grad.k.data);
            }
        }
    }
}
