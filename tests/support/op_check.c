#include "tests/support/op_check.h"

#include <stdlib.h>

#include "tests/support/check.h"
#include "tests/support/op_reference.h"
#include "tests/support/share.h"

enum { GUARD_BYTES = 256, NUM_SAMPLES = 64, SENTINEL = 0xA5 };

static const size_t type_bytes[] = {
    [OP_CHECK_FLOAT] = sizeof(float),
    [OP_CHECK_DOUBLE] = sizeof(double),
    [OP_CHECK_INT] = sizeof(int32_t),
};

void op_check_init(struct op_check *check, struct hlm_backend *backend, double tolerance)
{
    struct hlm_err err;
    *check = (struct op_check){
        .backend = backend, .arena = hlm_arena_new(), .rng = {.key = 7}, .tolerance = tolerance};
    check_ok(backend->ops->queue_new(backend, &check->queue, &err), &err);
}

void op_check_release(struct op_check *check)
{
    check->backend->ops->queue_free(check->queue);
    hlm_arena_free(check->arena);
}

double *op_check_random(struct op_check *check, int64_t count)
{
    double *values = HLM_ARENA_ARRAY(check->arena, double, count);
    for (int64_t i = 0; i < count; i++) {
        values[i] = (double)(float)hlm_rng_normal(check->rng.key, check->rng.next++);
    }
    return values;
}

static void store(unsigned char *to, enum op_check_type type, double value)
{
    const float as_float = (float)value;
    const int32_t as_int = type == OP_CHECK_INT && !isnan(value) ? (int32_t)value : INT32_MIN;
    const void *const sources[] = {&as_float, &value, &as_int};
    memcpy(to, sources[type], type_bytes[type]);
}

static double load(const unsigned char *from, enum op_check_type type)
{
    float as_float;
    double as_double;
    int32_t as_int;
    void *const targets[] = {&as_float, &as_double, &as_int};
    memcpy(targets[type], from, type_bytes[type]);
    return type == OP_CHECK_FLOAT ? (double)as_float : type == OP_CHECK_INT ? as_int : as_double;
}

static size_t memory_bytes(const struct op_check_memory *memory)
{
    return (size_t)memory->count * type_bytes[memory->type] + 2 * GUARD_BYTES;
}

void op_check_memory_new(struct op_check *check, struct op_check_memory *memory,
                         enum op_check_type type, int64_t count, const double *values)
{
    struct hlm_err err;
    const struct hlm_backend_ops *ops = check->backend->ops;
    *memory = (struct op_check_memory){.type = type, .count = count};
    const size_t bytes = memory_bytes(memory);
    void *base = NULL;
    check_ok(ops->alloc(check->backend, (int64_t)bytes, &base, &err), &err);
    assert_int_equal((uintptr_t)base % 256, 0);
    memory->base = base;
    memory->data = memory->base + GUARD_BYTES;
    memory->host = hlm_arena_alloc(check->arena, bytes, 1);
    memset(memory->host, SENTINEL, bytes);
    for (int64_t i = 0; i < count; i++) {
        store(memory->host + GUARD_BYTES + (size_t)i * type_bytes[type], type,
              values == NULL ? (double)NAN : values[i]);
    }
    check_ok(ops->upload(check->queue, base, memory->host, (int64_t)bytes, &err), &err);
}

void op_check_memory_read(struct op_check *check, const struct op_check_memory *memory,
                          bool read_only, double *values)
{
    struct hlm_err err;
    const size_t bytes = memory_bytes(memory);
    unsigned char *now = hlm_arena_alloc(check->arena, bytes, 1);
    const struct hlm_backend_ops *ops = check->backend->ops;
    check_ok(ops->download(check->queue, now, memory->base, (int64_t)bytes, &err), &err);
    check_ok(ops->queue_sync(check->queue, &err), &err);
    assert_memory_equal(now, memory->host, GUARD_BYTES);
    assert_memory_equal(now + bytes - GUARD_BYTES, memory->host + bytes - GUARD_BYTES, GUARD_BYTES);
    if (read_only) {
        assert_memory_equal(now, memory->host, bytes);
    }
    for (int64_t i = 0; i < memory->count; i++) {
        values[i] = load(now + GUARD_BYTES + (size_t)i * type_bytes[memory->type], memory->type);
    }
}

void op_check_memory_free(struct op_check *check, struct op_check_memory *memory)
{
    check->backend->ops->free(check->backend, memory->base);
}

void op_check_agree(const struct op_check *check, const char *what, const double *actual,
                    const double *expected, int64_t count)
{
    double largest = 0.0;
    for (int64_t i = 0; i < count; i++) {
        largest = isfinite(expected[i]) ? fmax(largest, fabs(expected[i])) : largest;
    }
    for (int64_t i = 0; i < count; i++) {
        const double allowed = check->tolerance * (1.0 + largest);
        const bool fine =
            isnan(expected[i]) ? isfinite(actual[i]) : fabs(actual[i] - expected[i]) <= allowed;
        if (!fine) {
            fail_msg("%s: element %lld is %.9g, expected %.9g +- %.2g", what, (long long)i,
                     actual[i], expected[i], allowed);
        }
    }
}

/* The name of operand i in HLM_OP_MAP, without brackets and mode: "tokens". */
static const char *operand_name(struct op_check *check, enum hlm_op_kind kind, int operand)
{
    char *text = hlm_arena_strdup(check->arena, hlm_op_operand_texts[kind]);
    char *rest = NULL, *word = strtok_r(text, " []", &rest);
    for (int i = 0; i < operand; i++) {
        word = strtok_r(NULL, " []", &rest);
    }
    return word + 1;
}

static enum op_check_type operand_type(struct op_check *check, enum hlm_op_kind kind, int operand)
{
    const char *name = operand_name(check, kind, operand);
    static const char *const ints[] = {"tokens", "targets", "choice", "counts"};
    for (size_t i = 0; i < sizeof(ints) / sizeof(ints[0]); i++) {
        if (strcmp(name, ints[i]) == 0) {
            return OP_CHECK_INT;
        }
    }
    const bool is_double = strcmp(name, "loss") == 0 || strcmp(name, "sum") == 0;
    return is_double ? OP_CHECK_DOUBLE : OP_CHECK_FLOAT;
}

/* The operands of an operator as the reference sees them. */
struct values {
    struct hlm_op op;
    int num;
    int64_t counts[HLM_OP_MAX_OPERANDS];
    double *at[HLM_OP_MAX_OPERANDS];
};

static struct hlm_op with_operands(const struct hlm_op *op, unsigned absent)
{
    struct hlm_op result = *op;
    for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        const bool given = i < hlm_op_num_operands(op->kind) && (absent >> i & 1U) == 0;
        result.operands[i] = given ? i : -1;
    }
    return result;
}

/* Some of the numbers lie outside the shard, on either side. */
static void make_indices(struct op_check *check, const struct hlm_op *op, double *values,
                         int64_t count)
{
    const int64_t last = op->first_row + (op->kind == HLM_OP_EMBED_FWD ? op->k : op->n) + 1;
    for (int64_t i = 0; i < count; i++) {
        values[i] = (double)hlm_rng_next_int(&check->rng, op->first_row - 2, last);
    }
}

/* Different experts for each row. */
static void make_choices(struct op_check *check, const struct hlm_op *op, double *values,
                         int64_t count)
{
    const int64_t rows = op->kind == HLM_OP_PERMUTE ? op->k : op->m, top_k = count / rows;
    for (int64_t row = 0; row < rows; row++) {
        const int64_t start = hlm_rng_next_int(&check->rng, 0, op->num_experts - 1);
        for (int64_t j = 0; j < top_k; j++) {
            values[row * top_k + j] = (double)((start + j) % op->num_experts);
        }
    }
}

/* All rows of each part, or some of them where the operator accumulates; the second expert of the
 * first rank of each gets none. */
static void make_counts(struct op_check *check, const struct hlm_op *op, double *values,
                        int64_t count)
{
    const int64_t parts = op->expert_parts > 1 ? op->expert_parts : 1, num = count / parts;
    const int64_t rows = (op->layout == HLM_GEMM_NT ? op->k : op->m) / parts;
    for (int64_t i = 0; i < count; i++) {
        values[i] = 0.0;
    }
    for (int64_t i = 0; i < parts * (rows - (op->accumulate ? rows / 3 : 0)); i++) {
        const int64_t drawn = hlm_rng_next_int(&check->rng, 0, num - 1);
        values[i % parts * num + (drawn == 1 ? 0 : drawn)] += 1.0;
    }
}

static void make_ints(struct op_check *check, const struct hlm_op *op, const char *name,
                      double *values, int64_t count)
{
    if (op->kind == HLM_OP_ROUTE_FWD) {
        return; /* it writes them */
    }
    if (strcmp(name, "choice") == 0) {
        make_choices(check, op, values, count);
    } else if (strcmp(name, "counts") == 0) {
        make_counts(check, op, values, count);
    } else {
        make_indices(check, op, values, count);
    }
}

static void values_init(struct op_check *check, struct values *values, const struct hlm_op *op,
                        unsigned absent)
{
    values->op = with_operands(op, absent);
    values->num = hlm_op_num_operands(op->kind);
    hlm_op_reference_counts(op, values->counts);
    for (int i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        const bool given = i < values->num && values->op.operands[i] >= 0;
        values->at[i] = given ? op_check_random(check, values->counts[i]) : NULL;
        if (given && operand_type(check, op->kind, i) == OP_CHECK_INT) {
            make_ints(check, op, operand_name(check, op->kind, i), values->at[i],
                      values->counts[i]);
        }
    }
}

/* The reference's results from these values, which stay as they are. */
static struct values reference_of(struct op_check *check, const struct values *values)
{
    struct values result = *values;
    for (int i = 0; i < values->num; i++) {
        /* Attention needs room for probabilities even where nobody asks for them. */
        result.at[i] = HLM_ARENA_ARRAY(check->arena, double, values->counts[i]);
        if (values->at[i] != NULL) {
            memcpy(result.at[i], values->at[i], (size_t)values->counts[i] * sizeof(double));
        } else if (values->op.kind != HLM_OP_ATTENTION_FWD) {
            result.at[i] = NULL;
        }
    }
    if (!hlm_op_reference(&values->op, result.at)) {
        fail_msg("no reference of %s", hlm_op_texts[values->op.kind]);
    }
    return result;
}

static void launch(struct op_check *check, const struct hlm_op *op,
                   const struct op_check_memory memory[HLM_OP_MAX_OPERANDS])
{
    struct hlm_err err;
    void *operands[HLM_OP_MAX_OPERANDS];
    for (int i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        operands[i] = memory[i].data;
    }
    const struct hlm_backend_ops *ops = check->backend->ops;
    check_ok(ops->launch(check->queue, op, operands, NULL, &err), &err);
}

/* Reads operand i back and compares it with `expected`. */
static void compare(struct op_check *check, const struct hlm_op *op, int i,
                    struct op_check_memory *memory, const double *expected)
{
    double *actual = HLM_ARENA_ARRAY(check->arena, double, memory->count);
    op_check_memory_read(check, memory, !hlm_op_writes(op, i), actual);
    const char *what = hlm_arena_printf(check->arena, "%s, %s", hlm_op_texts[op->kind],
                                        operand_name(check, op->kind, i));
    op_check_agree(check, what, actual, expected, memory->count);
    op_check_memory_free(check, memory);
}

void op_check_forward(struct op_check *check, const struct hlm_op *op, unsigned absent)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(check->arena);
    struct values values;
    struct op_check_memory memory[HLM_OP_MAX_OPERANDS] = {0};
    values_init(check, &values, op, absent);
    for (int i = 0; i < values.num; i++) {
        if (values.at[i] != NULL) {
            op_check_memory_new(check, &memory[i], operand_type(check, op->kind, i),
                                values.counts[i],
                                hlm_op_reads(&values.op, i) ? values.at[i] : NULL);
        }
    }
    const struct values expected = reference_of(check, &values);
    launch(check, &values.op, memory);
    for (int i = 0; i < values.num; i++) {
        if (values.at[i] != NULL) {
            compare(check, &values.op, i, &memory[i], expected.at[i]);
        }
    }
    hlm_arena_rewind(check->arena, mark);
}

/* The sum over outputs of gradient * output. */
static double weighted_sum(struct op_check *check, const struct values *values,
                           double *const douts[HLM_OP_MAX_OPERANDS])
{
    const struct hlm_arena_mark mark = hlm_arena_mark(check->arena);
    const struct values result = reference_of(check, values);
    double sum = 0.0;
    for (int i = 0; i < values->num; i++) {
        for (int64_t j = 0; j < values->counts[i] && douts[i] != NULL; j++) {
            sum += douts[i][j] * result.at[i][j];
        }
    }
    hlm_arena_rewind(check->arena, mark);
    return sum;
}

/* The gradient of operand i, by central differences; NaN where it was not taken. */
static double *differences(struct op_check *check, const struct values *values, int i,
                           double *const douts[HLM_OP_MAX_OPERANDS])
{
    const double h = 1e-4;
    const int64_t count = values->counts[i];
    const int64_t most = share_of(NUM_SAMPLES);
    const int64_t num = count < most ? count : most;
    double *gradient = HLM_ARENA_ARRAY(check->arena, double, count);
    for (int64_t j = 0; j < count; j++) {
        gradient[j] = (double)NAN;
    }
    for (int64_t sample = 0; sample < num; sample++) {
        const bool all = num == count;
        const int64_t drawn = hlm_rng_next_int(&check->rng, 0, count - 1);
        const int64_t j = all || sample == 0 ? sample : sample == 1 ? count - 1 : drawn;
        const double value = values->at[i][j];
        values->at[i][j] = value + h;
        const double above = weighted_sum(check, values, douts);
        values->at[i][j] = value - h;
        gradient[j] = (above - weighted_sum(check, values, douts)) / (2.0 * h);
        values->at[i][j] = value;
    }
    return gradient;
}

/* What the words of the map say about one operand of the backward. */
struct binding {
    char role;
    int operand; /* of the forward */
};

static void parse_map(struct op_check *check, const char *map,
                      struct binding bindings[HLM_OP_MAX_OPERANDS])
{
    char *rest = NULL, *text = hlm_arena_strdup(check->arena, map);
    int num = 0;
    for (char *word = strtok_r(text, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest)) {
        bindings[num++] = (struct binding){word[0], word[1] == '\0' ? 0 : word[1] - '0'};
    }
}

/* base + gradient + residual, where the latter are given */
static double *expected_gradient(struct op_check *check, const double *base, const double *gradient,
                                 const double *residual, int64_t count)
{
    double *sum = HLM_ARENA_ARRAY(check->arena, double, count);
    for (int64_t j = 0; j < count; j++) {
        sum[j] =
            gradient[j] + (base == NULL ? 0.0 : base[j]) + (residual == NULL ? 0.0 : residual[j]);
    }
    return sum;
}

struct backward {
    struct values forward, results;
    struct hlm_op op;
    struct binding bindings[HLM_OP_MAX_OPERANDS];
    double *douts[HLM_OP_MAX_OPERANDS]; /* by operand of the forward */
    double *given[HLM_OP_MAX_OPERANDS]; /* by operand of the backward: what stands there before */
    double *residual;
};

static void bind(struct op_check *check, struct backward *b, int i)
{
    const struct binding at = b->bindings[i];
    const int64_t count = b->forward.counts[at.operand];
    if (at.role == 'v') {
        b->given[i] = b->results.at[at.operand];
    } else if (at.role == 'd' || at.role == 'x') {
        b->given[i] = b->douts[at.operand] = op_check_random(check, count);
    } else if (at.role == 'r') {
        b->given[i] = b->residual = op_check_random(check, count);
    } else if (at.role == 'g' && hlm_op_reads(&b->op, i)) {
        b->given[i] = op_check_random(check, count);
    }
}

static void backward_init(struct op_check *check, struct backward *b, const struct hlm_op *forward,
                          enum hlm_op_kind kind, const char *map, unsigned absent_forward)
{
    values_init(check, &b->forward, forward, absent_forward);
    b->results = reference_of(check, &b->forward);
    parse_map(check, map, b->bindings);
    unsigned absent = 0;
    for (unsigned i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        absent |= (unsigned)(b->bindings[i].role == '-') << i;
    }
    struct hlm_op op = *forward;
    op.kind = kind;
    if (kind == HLM_OP_PERMUTE || kind == HLM_OP_UNPERMUTE) {
        op.m = forward->k;
        op.k = forward->m;
    }
    b->op = with_operands(&op, absent);
    for (int i = 0; i < hlm_op_num_operands(kind); i++) {
        bind(check, b, i);
    }
}

static const double *expected_of(struct op_check *check, const struct backward *b, int i)
{
    const struct binding at = b->bindings[i];
    if (at.role != 'g' && at.role != 'x') {
        return b->given[i];
    }
    const double *gradient = differences(check, &b->forward, at.operand, b->douts);
    return expected_gradient(check, at.role == 'g' ? b->given[i] : NULL, gradient,
                             at.operand == 0 ? b->residual : NULL, b->forward.counts[at.operand]);
}

void op_check_backward(struct op_check *check, const struct hlm_op *forward, enum hlm_op_kind kind,
                       const char *map, unsigned absent_forward)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(check->arena);
    struct backward b = {0};
    struct op_check_memory memory[HLM_OP_MAX_OPERANDS] = {0};
    backward_init(check, &b, forward, kind, map, absent_forward);
    for (int i = 0; i < hlm_op_num_operands(kind); i++) {
        if (b.op.operands[i] >= 0) {
            op_check_memory_new(check, &memory[i], operand_type(check, kind, i),
                                b.forward.counts[b.bindings[i].operand], b.given[i]);
        }
    }
    launch(check, &b.op, memory);
    for (int i = 0; i < hlm_op_num_operands(kind); i++) {
        if (b.op.operands[i] >= 0) {
            compare(check, &b.op, i, &memory[i], expected_of(check, &b, i));
        }
    }
    hlm_arena_rewind(check->arena, mark);
}
