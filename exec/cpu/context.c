/* Keys and values that were gathered over the cp group, between the order of ranks, in which they
 * come, and that of positions, in which attention reads them. */
#include <string.h>

#include "exec/cpu/cpu.h"

struct shared_rows {
    const struct hlm_op *op;
    float *kv;      /* [ranks * m, 2 * kv_heads * head_dim] */
    float *ordered; /* [2][seq_len][head_dim]: keys, values */
    bool load;
};

static void move(const struct shared_rows *rows, float *in_kv, float *in_order)
{
    const size_t bytes = (size_t)rows->op->head_dim * sizeof(float);
    memcpy(rows->load ? in_order : in_kv, rows->load ? in_kv : in_order, bytes);
}

static void move_all(const struct shared_rows *rows, int64_t sequence, int64_t kv_head)
{
    const struct hlm_op *op = rows->op;
    const int64_t d = op->head_dim, cols = 2 * op->kv_heads * d;
    struct hlm_context context = hlm_op_context(op);
    const int64_t own_len = hlm_context_own_len(&context, op->seq_len);
    for (context.rank = 0; context.rank < context.ranks; context.rank++) {
        const int64_t first = context.rank * op->m + sequence * own_len;
        for (int64_t place = 0; place < own_len; place++) {
            const int64_t position = hlm_context_position(&context, op->seq_len, place);
            float *key = rows->kv + (first + place) * cols + kv_head * d;
            float *ordered = rows->ordered + position * d;
            move(rows, key, ordered);
            move(rows, key + op->kv_heads * d, ordered + op->seq_len * d);
        }
    }
}

void hlm_cpu_context_load(const struct hlm_op *op, const float *kv, int64_t sequence,
                          int64_t kv_head, float *ordered)
{
    const struct shared_rows rows = {op, (float *)kv, ordered, true};
    move_all(&rows, sequence, kv_head);
}

void hlm_cpu_context_store(const struct hlm_op *op, float *kv, int64_t sequence, int64_t kv_head,
                           const float *ordered)
{
    const struct shared_rows rows = {op, kv, (float *)ordered, false};
    move_all(&rows, sequence, kv_head);
}
