#include "tests/gpu/bf16_check.h"

#include <stdlib.h>

#include "tests/support/check.h"

void bf16_check_init(struct bf16_check *check, struct hlm_backend *device)
{
    struct hlm_err err;
    *check = (struct bf16_check){.device = device, .arena = hlm_arena_new(), .rng = {.key = 11}};
    check_ok(hlm_backend_cpu_new(&check->cpu, &err), &err);
    check_ok(device->ops->queue_new(device, &check->device_queue, &err), &err);
    check_ok(check->cpu->ops->queue_new(check->cpu, &check->cpu_queue, &err), &err);
}

void bf16_check_release(struct bf16_check *check)
{
    check->device->ops->queue_free(check->device_queue);
    check->cpu->ops->queue_free(check->cpu_queue);
    hlm_backend_free(check->cpu);
    hlm_arena_free(check->arena);
}

/* To nearest, ties to even. */
static uint16_t to_bf16(double value)
{
    const float x = (float)value;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x)) {
        return 0x7fff;
    }
    return (uint16_t)((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

static double from_bf16(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

double *bf16_check_random(struct bf16_check *check, int64_t count)
{
    double *values = HLM_ARENA_ARRAY(check->arena, double, count);
    for (int64_t i = 0; i < count; i++) {
        values[i] = from_bf16(to_bf16(hlm_rng_normal(check->rng.key, check->rng.next++)));
    }
    return values;
}

/* How an operand's elements are stored on a backend. */
static char stored_type(const struct bf16_check *check, const struct hlm_backend *backend,
                        char type)
{
    return type == 't' && backend == check->cpu ? 'f' : type;
}

static int64_t element_bytes(char stored)
{
    return stored == 't' ? 2 : stored == 'd' ? 8 : 4;
}

static void encode(char stored, unsigned char *to, double value)
{
    const uint16_t half = to_bf16(value);
    const float single = (float)value;
    const int32_t whole = stored == 'i' ? (int32_t)value : 0;
    const void *from = stored == 't'   ? (const void *)&half
                       : stored == 'd' ? (const void *)&value
                       : stored == 'i' ? (const void *)&whole
                                       : (const void *)&single;
    memcpy(to, from, (size_t)element_bytes(stored));
}

static double decode(char stored, const unsigned char *from)
{
    uint16_t half;
    float single;
    double value;
    int32_t whole;
    void *to = stored == 't'   ? (void *)&half
               : stored == 'd' ? (void *)&value
               : stored == 'i' ? (void *)&whole
                               : (void *)&single;
    memcpy(to, from, (size_t)element_bytes(stored));
    return stored == 't'   ? from_bf16(half)
           : stored == 'd' ? value
           : stored == 'i' ? whole
                           : (double)single;
}

/* One run on one backend: bytes of all operands afterwards. */
struct run {
    unsigned char *bytes[HLM_OP_MAX_OPERANDS];
};

static void *put(struct bf16_check *check, struct hlm_backend *backend, struct hlm_queue *queue,
                 const struct hlm_op *op, int i, const struct bf16_operand *operand)
{
    struct hlm_err err;
    const char stored = stored_type(check, backend, operand->type);
    const int64_t size = element_bytes(stored);
    unsigned char *host = hlm_arena_alloc(check->arena, (size_t)(size * operand->count), 8);
    for (int64_t k = 0; k < operand->count; k++) {
        encode(stored, host + k * size, hlm_op_reads(op, i) ? operand->values[k] : (double)NAN);
    }
    void *memory = NULL;
    check_ok(backend->ops->alloc(backend, size * operand->count, &memory, &err), &err);
    check_ok(backend->ops->upload(queue, memory, host, size * operand->count, &err), &err);
    return memory;
}

static struct run run_on(struct bf16_check *check, struct hlm_backend *backend,
                         struct hlm_queue *queue, const struct hlm_op *op,
                         const struct bf16_operand *operands, const struct hlm_op_scalars *scalars)
{
    struct hlm_err err;
    struct run run = {{NULL}};
    void *memory[HLM_OP_MAX_OPERANDS] = {NULL};
    const int num = hlm_op_num_operands(op->kind);
    for (int i = 0; i < num; i++) {
        if (operands[i].type != '-') {
            memory[i] = put(check, backend, queue, op, i, &operands[i]);
        }
    }
    check_ok(backend->ops->launch(queue, op, memory, scalars, &err), &err);
    for (int i = 0; i < num; i++) {
        if (operands[i].type == '-') {
            continue;
        }
        const int64_t bytes =
            element_bytes(stored_type(check, backend, operands[i].type)) * operands[i].count;
        run.bytes[i] = hlm_arena_alloc(check->arena, (size_t)bytes, 8);
        check_ok(backend->ops->download(queue, run.bytes[i], memory[i], bytes, &err), &err);
    }
    check_ok(backend->ops->queue_sync(queue, &err), &err);
    for (int i = 0; i < num; i++) {
        backend->ops->free(backend, memory[i]);
    }
    return run;
}

static void compare(const struct hlm_op *op, int i, const struct bf16_operand *operand,
                    const unsigned char *device, const unsigned char *cpu, double tolerance)
{
    const char expected_type = operand->type == 't' ? 'f' : operand->type;
    double largest = 0.0;
    for (int64_t k = 0; k < operand->count; k++) {
        operand->values[k] = decode(expected_type, cpu + k * element_bytes(expected_type));
        largest = fmax(largest, fabs(operand->values[k]));
    }
    for (int64_t k = 0; k < operand->count; k++) {
        const double actual = decode(operand->type, device + k * element_bytes(operand->type));
        if (!(fabs(actual - operand->values[k]) <= tolerance * (1.0 + largest))) {
            fail_msg("%s in bf16, operand %d: element %lld is %.9g, expected %.9g +- %.2g",
                     hlm_op_texts[op->kind], i, (long long)k, actual, operand->values[k],
                     tolerance * (1.0 + largest));
        }
    }
}

void bf16_check_run(struct bf16_check *check, const struct hlm_op *op,
                    struct bf16_operand *operands, const struct hlm_op_scalars *scalars,
                    double tolerance)
{
    struct hlm_op on_device = *op, on_cpu = *op;
    const int num = hlm_op_num_operands(op->kind);
    on_device.dtype = HLM_DTYPE_BF16;
    on_cpu.dtype = HLM_DTYPE_FP32;
    for (int i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        const bool given = i < num && operands[i].type != '-';
        on_device.operands[i] = on_cpu.operands[i] = given ? i : -1;
        if (given && operands[i].values == NULL) {
            operands[i].values = bf16_check_random(check, operands[i].count);
        }
    }
    const struct run first =
        run_on(check, check->device, check->device_queue, &on_device, operands, scalars);
    const struct run second =
        run_on(check, check->device, check->device_queue, &on_device, operands, scalars);
    const struct run cpu = run_on(check, check->cpu, check->cpu_queue, &on_cpu, operands, scalars);
    for (int i = 0; i < num; i++) {
        if (operands[i].type != '-' && hlm_op_writes(&on_device, i)) {
            const int64_t bytes = element_bytes(operands[i].type) * operands[i].count;
            assert_memory_equal(first.bytes[i], second.bytes[i], (size_t)bytes);
            compare(&on_device, i, &operands[i], first.bytes[i], cpu.bytes[i], tolerance);
        }
    }
}
