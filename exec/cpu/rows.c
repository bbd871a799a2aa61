/* Operators that move or rotate rows: embeddings, patches, selections, RoPE. */
#include <math.h>
#include <string.h>

#include "exec/cpu/cpu.h"

static void copy_row(float *to, const float *from, int64_t n)
{
    memcpy(to, from, (size_t)n * sizeof(float));
}

static void clear_row(float *to, int64_t n)
{
    memset(to, 0, (size_t)n * sizeof(float));
}

static void add_row(float *to, const float *from, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        to[j] += from[j];
    }
}

/* The row of token i in this shard of the table, -1 where another shard has it. */
static int64_t shard_row(const struct hlm_op *op, const int32_t *tokens, int64_t i)
{
    const int64_t row = tokens[i] - op->first_row;
    return row >= 0 && row < op->k ? row : -1;
}

void hlm_cpu_embed_fwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *table = call->operands[1];
    float *out = call->operands[2];
    for (int64_t i = 0; i < op->m; i++) {
        const int64_t row = shard_row(op, call->operands[0], i);
        if (row < 0) {
            clear_row(out + i * op->n, op->n);
        } else {
            copy_row(out + i * op->n, table + row * op->n, op->n);
        }
    }
}

void hlm_cpu_embed_bwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *dout = call->operands[1];
    float *dtable = call->operands[2];
    for (int64_t i = 0; i < op->m; i++) {
        const int64_t row = shard_row(op, call->operands[0], i);
        if (row >= 0) {
            add_row(dtable + row * op->n, dout + i * op->n, op->n);
        }
    }
}

void hlm_cpu_position_fwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *table = call->operands[0], *type = call->operands[1];
    float *out = call->operands[2];
    HLM_ASSERT(op->seq_len > 0);
    for (int64_t i = 0; i < op->m; i++) {
        add_row(out + i * op->n, table + hlm_op_position(op, op->first_row + i) * op->n, op->n);
        if (type != NULL) {
            add_row(out + i * op->n, type, op->n);
        }
    }
}

void hlm_cpu_position_bwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *dout = call->operands[0];
    float *dtable = call->operands[1], *dtype = call->operands[2];
    HLM_ASSERT(op->seq_len > 0);
    for (int64_t i = 0; i < op->m; i++) {
        add_row(dtable + hlm_op_position(op, op->first_row + i) * op->n, dout + i * op->n, op->n);
        if (dtype != NULL) {
            add_row(dtype, dout + i * op->n, op->n);
        }
    }
}

/* One patch: its columns are (channel, y, x). */
static void patch_row(const float *image, int64_t channels, int64_t side, int64_t patch, float *out)
{
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t y = 0; y < patch; y++) {
            copy_row(out + (c * patch + y) * patch, image + (c * side + y) * side, patch);
        }
    }
}

void hlm_cpu_patchify(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *pixels = call->operands[0];
    float *out = call->operands[1];
    const int64_t patch = op->k, patches = op->m / op->batch;
    const int64_t in_row = llround(sqrt((double)patches)), side = in_row * patch;
    const int64_t channels = op->n / (patch * patch);
    HLM_ASSERT(in_row * in_row * op->batch == op->m && channels * patch * patch == op->n);
    for (int64_t i = 0; i < op->m; i++) {
        const int64_t image = i / patches, y = i % patches / in_row, x = i % in_row;
        patch_row(pixels + image * channels * side * side + (y * side + x) * patch, channels, side,
                  patch, out + i * op->n);
    }
}

void hlm_cpu_patch_assemble_fwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *patches = call->operands[0], *class = call->operands[1];
    const float *position = call->operands[2];
    float *out = call->operands[3];
    HLM_ASSERT(op->seq_len * op->batch == op->m);
    for (int64_t i = 0; i < op->m; i++) {
        const int64_t sequence = i / op->seq_len, place = i % op->seq_len;
        const int64_t patch = sequence * (op->seq_len - 1) + place - 1;
        copy_row(out + i * op->n, place == 0 ? class : patches + patch * op->n, op->n);
        add_row(out + i * op->n, position + place * op->n, op->n);
    }
}

void hlm_cpu_patch_assemble_bwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *dout = call->operands[0];
    float *dpatches = call->operands[1], *dclass = call->operands[2];
    float *dposition = call->operands[3];
    HLM_ASSERT(op->seq_len * op->batch == op->m);
    for (int64_t i = 0; i < op->m; i++) {
        const int64_t sequence = i / op->seq_len, place = i % op->seq_len;
        const float *row = dout + i * op->n;
        add_row(dposition + place * op->n, row, op->n);
        if (place == 0) {
            add_row(dclass, row, op->n);
        } else {
            const int64_t patch = sequence * (op->seq_len - 1) + place - 1;
            copy_row(dpatches + patch * op->n, row, op->n);
        }
    }
}

void hlm_cpu_select_fwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *in = call->operands[0];
    float *out = call->operands[1];
    for (int64_t i = 0; i < op->m; i++) {
        copy_row(out + i * op->n, in + i * op->seq_len * op->n, op->n);
    }
}

void hlm_cpu_select_bwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *dout = call->operands[0];
    float *din = call->operands[1];
    for (int64_t i = 0; i < op->m; i++) {
        float *sequence = din + i * op->seq_len * op->n;
        copy_row(sequence, dout + i * op->n, op->n);
        clear_row(sequence + op->n, (op->seq_len - 1) * op->n);
    }
}

void hlm_cpu_slice_rows(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *in = call->operands[0];
    copy_row(call->operands[1], in + op->first_row * op->n, op->m * op->n);
}

void hlm_cpu_rotation_fill(float *table, int64_t seq_len, int64_t rotary, double theta)
{
    const int64_t half = rotary / 2;
    for (int64_t position = 0; position < seq_len; position++) {
        float *cosine = table + position * rotary, *sine = cosine + half;
        for (int64_t i = 0; i < half; i++) {
            const double angle = (double)position * pow(theta, -2.0 * (double)i / (double)rotary);
            cosine[i] = (float)cos(angle);
            sine[i] = (float)sin(angle);
        }
    }
}

void hlm_cpu_kv_split(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const int64_t queries = op->heads * op->head_dim, stride = queries + op->n;
    const float *qkv = call->operands[0];
    float *kv = call->operands[1];
    for (int64_t i = 0; i < op->m; i++) {
        copy_row(kv + i * op->n, qkv + i * stride + queries, op->n);
    }
}

void hlm_cpu_kv_join(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const int64_t queries = op->heads * op->head_dim, stride = queries + op->n;
    const float *kv = call->operands[0];
    float *qkv = call->operands[1];
    for (int64_t i = 0; i < op->m; i++) {
        copy_row(qkv + i * stride + queries, kv + i * op->n, op->n);
    }
}

/* Pairs (i, i + half) of one head, by the angle whose sine is direction * sine. */
static void rotate(float *head, const float *restrict cosine, const float *restrict sine,
                   int64_t half, float direction)
{
    float *low = head, *high = head + half;
    for (int64_t i = 0; i < half; i++) {
        const float a = low[i], b = high[i], s = direction * sine[i];
        low[i] = a * cosine[i] - b * s;
        high[i] = b * cosine[i] + a * s;
    }
}

static void rope(const struct hlm_cpu_call *call, float direction)
{
    const struct hlm_op *op = call->op;
    const int64_t half = op->rotary / 2, heads = op->heads + op->kv_heads;
    const int64_t stride = (heads + op->kv_heads) * op->head_dim;
    for (int64_t i = 0; i < op->m; i++) {
        const float *cosine = call->rotation + hlm_op_position(op, i) * op->rotary;
        float *row = (float *)call->operands[0] + i * stride;
        for (int64_t head = 0; head < heads; head++) {
            rotate(row + head * op->head_dim, cosine, cosine + half, half, direction);
        }
    }
}

void hlm_cpu_rope_fwd(const struct hlm_cpu_call *call)
{
    rope(call, 1.0f);
}

void hlm_cpu_rope_bwd(const struct hlm_cpu_call *call)
{
    rope(call, -1.0f);
}
