/* Operators of mixtures of experts: routing, the way of rows to experts and back, products of many
 * experts. Loops are plain: the products take the time. */
#include "exec/cpu/experts.h"

#include <math.h>
#include <string.h>

#include "exec/cpu/cpu.h"

/* --- routing --- */

void hlm_cpu_top_k(const float *scores, int64_t k, int64_t n, int32_t *index, float *value)
{
    HLM_ASSERT(n <= k);
    int64_t num = 0;
    for (int64_t e = 0; e < k; e++) {
        if (num == n && !(scores[e] > value[n - 1])) {
            continue;
        }
        int64_t at = num < n ? num++ : n - 1;
        for (; at > 0 && scores[e] > value[at - 1]; at--) {
            value[at] = value[at - 1];
            index[at] = index[at - 1];
        }
        value[at] = scores[e];
        index[at] = (int32_t)e;
    }
}

/* Whatever the scores say. */
static void take_turns(const struct hlm_op *op, int64_t row, const float *scores, int32_t *index,
                       float *value)
{
    for (int64_t j = 0; j < op->n; j++) {
        index[j] = (int32_t)(((op->first_row + row) * op->n + j) % op->k);
        value[j] = scores[index[j]];
    }
}

static void softmax(float *values, int64_t n)
{
    float most = values[0], sum = 0.0f;
    for (int64_t j = 1; j < n; j++) {
        most = values[j] > most ? values[j] : most;
    }
    for (int64_t j = 0; j < n; j++) {
        values[j] = expf(values[j] - most);
        sum += values[j];
    }
    for (int64_t j = 0; j < n; j++) {
        values[j] /= sum;
    }
}

void hlm_cpu_route_fwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *scores = call->operands[0];
    float *weights = call->operands[1];
    int32_t *choice = call->operands[2], *counts = call->operands[3];
    memset(counts, 0, (size_t)op->k * sizeof(int32_t));
    for (int64_t i = 0; i < op->m; i++) {
        const float *row = scores + i * op->k;
        float *w = weights + i * op->n;
        int32_t *chosen = choice + i * op->n;
        if (op->balanced) {
            take_turns(op, i, row, chosen, w);
        } else {
            hlm_cpu_top_k(row, op->k, op->n, chosen, w);
        }
        softmax(w, op->n);
        for (int64_t j = 0; j < op->n; j++) {
            counts[chosen[j]]++;
        }
    }
}

void hlm_cpu_route_bwd(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *weights = call->operands[0], *dweights = call->operands[2];
    const int32_t *choice = call->operands[1];
    float *dscores = call->operands[3];
    memset(dscores, 0, (size_t)(op->m * op->k) * sizeof(float));
    for (int64_t i = 0; i < op->m; i++) {
        const float *w = weights + i * op->n, *dw = dweights + i * op->n;
        float mean = 0.0f;
        for (int64_t j = 0; j < op->n; j++) {
            mean += w[j] * dw[j];
        }
        for (int64_t j = 0; j < op->n; j++) {
            dscores[i * op->k + choice[i * op->n + j]] = w[j] * (dw[j] - mean);
        }
    }
}

/* --- to experts and back --- */

void hlm_cpu_places_init(struct hlm_cpu_places *places, int32_t *next, int32_t num_experts,
                         const int32_t *choice, int64_t num_choices)
{
    places->next = next;
    memset(next, 0, (size_t)num_experts * sizeof(int32_t));
    for (int64_t i = 0; i < num_choices; i++) {
        HLM_ASSERT(choice[i] >= 0 && choice[i] < num_experts);
        next[choice[i]]++;
    }
    int32_t before = 0;
    for (int32_t e = 0; e < num_experts; e++) {
        const int32_t count = next[e];
        next[e] = before;
        before += count;
    }
}

int64_t hlm_cpu_places_take(struct hlm_cpu_places *places, int32_t expert)
{
    return places->next[expert]++;
}

int64_t hlm_cpu_scratch_places(const struct hlm_op *op)
{
    return op->num_experts;
}

static struct hlm_cpu_places places_of(const struct hlm_cpu_call *call, int64_t num_choices)
{
    struct hlm_cpu_places places;
    hlm_cpu_places_init(&places, (int32_t *)(void *)call->scratch, call->op->num_experts,
                        call->operands[1], num_choices);
    return places;
}

static float dot(const float *a, const float *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t j = 0; j < n; j++) {
        sum += (double)a[j] * (double)b[j];
    }
    return (float)sum;
}

static void scale_row(float *to, const float *from, float factor, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        to[j] = factor * from[j];
    }
}

static void add_scaled_row(float *to, const float *from, float factor, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        to[j] += factor * from[j];
    }
}

void hlm_cpu_permute(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *in = call->operands[0], *weights = call->operands[2], *outputs = call->operands[3];
    const int32_t *choice = call->operands[1];
    float *out = call->operands[4], *dweights = call->operands[5];
    const int64_t top_k = op->m / op->k;
    struct hlm_cpu_places places = places_of(call, op->m);
    for (int64_t i = 0; i < op->m; i++) {
        const float *row = in + i / top_k * op->n;
        const int64_t to = hlm_cpu_places_take(&places, choice[i]) * op->n;
        scale_row(out + to, row, weights != NULL ? weights[i] : 1.0f, op->n);
        if (dweights != NULL) {
            dweights[i] = dot(row, outputs + to, op->n);
        }
    }
}

void hlm_cpu_unpermute(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const float *in = call->operands[0], *weights = call->operands[2];
    const int32_t *choice = call->operands[1];
    float *out = call->operands[3];
    const int64_t top_k = op->k / op->m;
    struct hlm_cpu_places places = places_of(call, op->k);
    memset(out, 0, (size_t)(op->m * op->n) * sizeof(float));
    for (int64_t i = 0; i < op->k; i++) {
        const int64_t from = hlm_cpu_places_take(&places, choice[i]) * op->n;
        add_scaled_row(out + i / top_k * op->n, in + from, weights != NULL ? weights[i] : 1.0f,
                       op->n);
    }
}

/* --- the experts --- */

/* One of the equal parts that the rows lie in. */
struct part {
    int64_t first, count;  /* rows that came */
    const int32_t *counts; /* [num_counts] */
    int64_t num_counts;
};

static int32_t num_parts(const struct hlm_op *op)
{
    return op->expert_parts > 1 ? op->expert_parts : 1;
}

/* rows: of all parts. */
static struct part part_of(const struct hlm_op *op, int64_t rows, const int32_t *counts,
                           int32_t index)
{
    const int64_t room = rows / num_parts(op);
    struct part part = {.first = index * room,
                        .num_counts = (int64_t)op->expert_ranks / num_parts(op) * op->num_experts};
    part.counts = counts + index * part.num_counts;
    for (int64_t i = 0; i < part.num_counts; i++) {
        part.count += part.counts[i];
    }
    HLM_ASSERT(part.count <= room);
    return part;
}

/* A product for the rows of one expert that one rank has sent, which begin at `first`. */
static void multiply_segment(const struct hlm_cpu_call *call, int64_t expert, int64_t first,
                             int64_t rows)
{
    const struct hlm_op *op = call->op;
    const bool reduces = op->layout == HLM_GEMM_NT; /* over the rows */
    const float *a = (const float *)call->operands[0] + first * (reduces ? op->m : op->k);
    const float *b = call->operands[1];
    float *c = call->operands[2];
    if (reduces) {
        hlm_cpu_multiply(op->layout, op->m, op->n, rows, a, b + first * op->n,
                         c + expert * op->m * op->n, true);
    } else {
        hlm_cpu_multiply(op->layout, rows, op->n, op->k, a, b + expert * op->n * op->k,
                         c + first * op->n, op->accumulate);
    }
}

static void multiply_part(const struct hlm_cpu_call *call, const struct part *part)
{
    int64_t first = part->first;
    for (int64_t i = 0; i < part->num_counts; i++) {
        if (part->counts[i] > 0) {
            multiply_segment(call, i % call->op->num_experts, first, part->counts[i]);
        }
        first += part->counts[i];
    }
}

void hlm_cpu_grouped_gemm(const struct hlm_cpu_call *call)
{
    const struct hlm_op *op = call->op;
    const bool reduces = op->layout == HLM_GEMM_NT;
    if (reduces && !op->accumulate) {
        const int64_t num = op->num_experts * op->m * op->n;
        memset(call->operands[2], 0, (size_t)num * sizeof(float));
    }
    for (int32_t p = 0; p < num_parts(op); p++) {
        const struct part part = part_of(op, reduces ? op->k : op->m, call->operands[3], p);
        multiply_part(call, &part);
    }
}

/* The same rows of a part as an activation without experts. */
static void activate_parts(const struct hlm_cpu_call *call,
                           void (*activate)(const struct hlm_cpu_call *call))
{
    const struct hlm_op *op = call->op;
    const int64_t in_cols = op->activation == HLM_ACTIVATION_SWIGLU ? 2 * op->n : op->n;
    void *const *at = call->operands;
    for (int32_t p = 0; p < num_parts(op); p++) {
        const struct part part = part_of(op, op->m, at[1], p);
        struct hlm_op rows = *op;
        rows.m = part.count;
        void *const operands[HLM_OP_MAX_OPERANDS] = {
            (float *)at[0] + part.first * in_cols, NULL, (float *)at[2] + part.first * op->n,
            at[3] != NULL ? (float *)at[3] + part.first * in_cols : NULL};
        activate(&(struct hlm_cpu_call){.op = &rows, .operands = operands});
    }
}

void hlm_cpu_expert_activation_fwd(const struct hlm_cpu_call *call)
{
    activate_parts(call, hlm_cpu_activation_fwd);
}

void hlm_cpu_expert_activation_bwd(const struct hlm_cpu_call *call)
{
    activate_parts(call, hlm_cpu_activation_bwd);
}
