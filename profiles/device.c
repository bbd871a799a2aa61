#include "profiles/device.h"

#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include "profiles/resolve.h"

static const char folder[] = "devices";

static const char *const backend_texts[] = {
#define X(name, text) text,
    HLM_BACKEND_MAP(X)
#undef X
        NULL,
};
static const char *const layout_texts[] = {
#define X(name, text) text,
    HLM_GEMM_LAYOUT_MAP(X)
#undef X
        NULL,
};
static const char *const form_texts[] = {
#define X(name, text) text,
    HLM_GEMM_FORM_MAP(X)
#undef X
        NULL,
};

/* Ranges of the physical quantities: wide, but they catch a wrong unit (us for s, GB/s for B/s). */
#define MAX_SECONDS 1e3
#define MIN_RATE 1e3
#define MAX_RATE 1e21

#define NUMBER(type_, member_, flags_, min_, max_, doc_)                                           \
    {                                                                                              \
        .name = #member_, .type = HLM_JSON_DOUBLE, .offset = offsetof(type_, member_),             \
        .flags = (flags_), .min = (min_), .max = (max_), .doc = (doc_)                             \
    }
#define REQUIRED_NUMBER(type_, member_, min_, max_, doc_)                                          \
    NUMBER(type_, member_, HLM_FIELD_REQUIRED, min_, max_, doc_)
#define OPTIONAL_NUMBER(type_, member_, min_, max_, doc_)                                          \
    NUMBER(type_, member_, HLM_FIELD_OMIT_DEFAULT, min_, max_, doc_)
#define SOURCE(type_, member_, doc_)                                                               \
    {                                                                                              \
        .name = #member_, .type = HLM_JSON_OBJECT, .offset = offsetof(type_, member_),             \
        .flags = HLM_FIELD_REQUIRED, .table = &hlm_source_table, .doc = (doc_)                     \
    }
#define ROWS(type_, member_, count_, flags_, min_, max_, table_, doc_)                             \
    {                                                                                              \
        .name = #member_, .type = HLM_JSON_ARRAY, .offset = offsetof(type_, member_),              \
        .flags = (flags_), .min = (min_), .max = (max_), .table = (table_),                        \
        .count_offset = offsetof(type_, count_), .doc = (doc_)                                     \
    }

#define T struct hlm_gemm_curve
static const struct hlm_json_field gemm_fields[] = {
    {.name = "layout",
     .type = HLM_JSON_ENUM,
     .offset = offsetof(T, layout),
     .enums = layout_texts,
     .doc =
         "Operand layout that this curve is for; any serves layouts without a row of their own."},
    {.name = "form",
     .type = HLM_JSON_ENUM,
     .offset = offsetof(T, form),
     .flags = HLM_FIELD_REQUIRED,
     .enums = form_texts,
     .doc = "Which formula the parameters belong to."},
    REQUIRED_NUMBER(T, t0_s, 0.0, MAX_SECONDS, "Constant part, in seconds."),
    REQUIRED_NUMBER(T, flops_per_s, MIN_RATE, MAX_RATE,
                    "Marginal rate (linear) or peak times efficiency (tile), in FLOP/s."),
    REQUIRED_NUMBER(T, bytes_per_s, MIN_RATE, MAX_RATE, "Memory rate, in bytes/s."),
    OPTIONAL_NUMBER(T, tile_start_s, 0.0, 1.0, "Start-up of one output tile, in seconds (tile)."),
    OPTIONAL_NUMBER(T, wave_frac, 0.0, 1.0,
                    "0: waves may be fractional, 1: whole waves only (tile)."),
    OPTIONAL_NUMBER(T, power_p, 0.0, 100.0,
                    "Norm that joins compute and memory time, at least 1 (tile)."),
    OPTIONAL_NUMBER(T, depth, 0.0, 4.0,
                    "Exponent of the loss of efficiency of small tiles (tile)."),
    OPTIONAL_NUMBER(T, throttle, 0.0, 1.0,
                    "Slowdown per doubling of the duration above 100 us (tile)."),
    OPTIONAL_NUMBER(T, grouped_frac, 0.0, 1.0,
                    "Rate of grouped products (experts) over that of one; 0: the same."),
    OPTIONAL_NUMBER(T, quantise_bytes, 0.0, 100.0,
                    "Extra traffic per element of the [m, k] operand, in bytes (fp8)."),
    OPTIONAL_NUMBER(
        T, pack_s, 0.0, 1.0,
        "Seconds per element of the second operand, packed for every product (linear)."),
    SOURCE(T, source, "Where the curve comes from."),
    {.name = NULL},
};
static const struct hlm_json_table gemm_table = {"gemm_curve", sizeof(T), gemm_fields};
#undef T

static const char *const attention_kernel_texts[] = {
#define X(name, text) text,
    HLM_ATTENTION_KERNEL_MAP(X)
#undef X
        NULL};

#define T struct hlm_attention_curve
static const struct hlm_json_field attention_fields[] = {
    {.name = "backward",
     .type = HLM_JSON_BOOL,
     .offset = offsetof(T, backward),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "Whether the curve is for the backward pass."},
    {.name = "causal",
     .type = HLM_JSON_BOOL,
     .offset = offsetof(T, causal),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "Whether the curve is for causal attention (FLOPs counted half)."},
    {.name = "keeps_probs",
     .type = HLM_JSON_BOOL,
     .offset = offsetof(T, keeps_probs),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .doc = "Whether the curve is for composed attention that keeps its probabilities."},
    {.name = "kernel",
     .type = HLM_JSON_ENUM,
     .offset = offsetof(T, kernel),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .enums = attention_kernel_texts,
     .doc = "Which fused kernel."},
    REQUIRED_NUMBER(T, t0_s, 0.0, MAX_SECONDS, "Constant part, in seconds."),
    OPTIONAL_NUMBER(T, t_head_s, 0.0, MAX_SECONDS, "Part per head and sequence, in seconds."),
    REQUIRED_NUMBER(T, flops_per_s, MIN_RATE, MAX_RATE, "Rate of long sequences, in FLOP/s."),
    OPTIONAL_NUMBER(T, bytes_per_s, 0.0, MAX_RATE, "Memory rate, in bytes/s; 0: no limit."),
    OPTIONAL_NUMBER(T, score_s, 0.0, 1.0, "Part per score element, in seconds."),
    OPTIONAL_NUMBER(T, dim_exp, 0.0, 4.0, "Exponent of min(1, head_dim / 128)."),
    OPTIONAL_NUMBER(T, s_half, 0.0, 1e6, "Sequence length at half of the rate, in tokens."),
    OPTIONAL_NUMBER(T, wave_frac, 0.0, 1.0,
                    "0: waves may be fractional, 1: whole waves only, over blocks of 128 queries."),
    SOURCE(T, source, "Where the curve comes from."),
    {.name = NULL},
};
static const struct hlm_json_table attention_table = {"attention_curve", sizeof(T),
                                                      attention_fields};
#undef T

#define T struct hlm_device_dtype
static const struct hlm_json_field dtype_fields[] = {
    {.name = "dtype",
     .type = HLM_JSON_ENUM,
     .offset = offsetof(T, dtype),
     .flags = HLM_FIELD_REQUIRED,
     .enums = hlm_dtype_texts,
     .doc = "Number format of the operands."},
    REQUIRED_NUMBER(T, peak_flops_per_s, MIN_RATE, MAX_RATE,
                    "Dense matrix peak, as MFU counts it, in FLOP/s."),
    ROWS(T, gemm, num_gemm, HLM_FIELD_OMIT_DEFAULT, 0.0, 16.0, &gemm_table,
         "Curves of matrix products; none: roofline."),
    ROWS(T, attention, num_attention, HLM_FIELD_OMIT_DEFAULT, 0.0, 32.0, &attention_table,
         "Curves of attention; none: roofline."),
    SOURCE(T, source, "Where the peak comes from."),
    {.name = NULL},
};
static const struct hlm_json_table dtype_table = {"device_dtype", sizeof(T), dtype_fields};
#undef T

#define T struct hlm_op_curve
static const struct hlm_json_field op_fields[] = {
    {.name = "op",
     .type = HLM_JSON_STRING,
     .offset = offsetof(T, op),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "Operator kind, as operator lists spell it, and variant where there is one: "
            "norm_fwd.rmsnorm."},
    ROWS(T, points, num_points, HLM_FIELD_REQUIRED, 1.0, 4096.0, &hlm_curve_point_table,
         "Time by the bytes that the operator must move, ascending."),
    SOURCE(T, source, "Where the curve comes from."),
    {.name = NULL},
};
static const struct hlm_json_table op_table = {"op_curve", sizeof(T), op_fields};
#undef T

#define T struct hlm_memory_bandwidth
static const struct hlm_json_field memory_fields[] = {
    REQUIRED_NUMBER(T, t0_s, 0.0, MAX_SECONDS, "Constant part, in seconds."),
    REQUIRED_NUMBER(T, bytes_per_s, MIN_RATE, MAX_RATE, "Rate that kernels reach, in bytes/s."),
    REQUIRED_NUMBER(T, peak_bytes_per_s, MIN_RATE, MAX_RATE, "Datasheet rate, in bytes/s."),
    SOURCE(T, source, "Where the rate comes from."),
    {.name = NULL},
};
static const struct hlm_json_table memory_table = {"memory_bandwidth", sizeof(T), memory_fields};
#undef T

#define TEXT(member_, doc_)                                                                        \
    {                                                                                              \
        .name = #member_, .type = HLM_JSON_STRING, .offset = offsetof(T, member_),                 \
        .flags = HLM_FIELD_OMIT_DEFAULT, .doc = (doc_)                                             \
    }

#define T struct hlm_device_state
static const struct hlm_json_field state_fields[] = {
    TEXT(when, "Moment: before, during (least clocks, most heat and power) or after."),
    OPTIONAL_NUMBER(T, sm_clock_hz, 0.0, 1e12, "Clock of the multiprocessors, in Hz."),
    OPTIONAL_NUMBER(T, memory_clock_hz, 0.0, 1e12, "Clock of the memory, in Hz."),
    OPTIONAL_NUMBER(T, power_w, 0.0, 1e6, "Power, in watts."),
    OPTIONAL_NUMBER(T, temperature_c, 0.0, 1e3, "Temperature, in degrees Celsius."),
    TEXT(throttle, "Why the device ran slower than it could."),
    {.name = NULL},
};
static const struct hlm_json_table state_table = {"device_state", sizeof(T), state_fields};
#undef T

#define T struct hlm_device_fit
static const struct hlm_json_field fit_fields[] = {
    TEXT(family, "Kind of kernels."),
    {.name = "num_points",
     .type = HLM_JSON_INT,
     .offset = offsetof(T, num_points),
     .flags = HLM_FIELD_REQUIRED,
     .max = 1e9,
     .doc = "Shapes that were measured."},
    REQUIRED_NUMBER(T, mean_error_frac, 0.0, 1e9,
                    "Mean of |predicted / measured - 1| of the cost model with this profile."),
    REQUIRED_NUMBER(T, worst_error_frac, 0.0, 1e9, "The largest of them."),
    OPTIONAL_NUMBER(T, spread_frac, 0.0, 1e9,
                    "Median over the shapes of how far the middle half of the samples is apart."),
    OPTIONAL_NUMBER(T, warm_frac, 0.0, 1e9,
                    "Median time with inputs in the caches over that from memory."),
    {.name = NULL},
};
static const struct hlm_json_table fit_table = {"device_fit", sizeof(T), fit_fields};
#undef T

#define T struct hlm_device_meta
static const struct hlm_json_field meta_fields[] = {
    TEXT(host, "Machine."),
    TEXT(hardware, "Device, as its driver calls it."),
    TEXT(driver, "Version of the driver."),
    TEXT(runtime, "Version of the runtime library."),
    TEXT(blas, "Version of the matrix library."),
    TEXT(transport, "Transport, with its version, over which links were measured."),
    OPTIONAL_NUMBER(T, seconds, 0.0, 1e9, "What measuring took, in seconds."),
    OPTIONAL_NUMBER(T, drift_frac, 0.0, 1e9,
                    "Change of the time of the same product from the beginning to the end."),
    OPTIONAL_NUMBER(T, sustained_frac, 0.0, 1e9,
                    "Rate of a product after seconds of load over that of its first ones."),
    OPTIONAL_NUMBER(T, product_s, 0.0, 1e6, "Time of that product at the end, in seconds."),
    OPTIONAL_NUMBER(T, slowest_frac, 0.0, 1e9,
                    "Largest such time of all devices over the middle one."),
    ROWS(T, states, num_states, HLM_FIELD_OMIT_DEFAULT, 0.0, 64.0, &state_table,
         "Clocks, power and temperature meanwhile."),
    ROWS(T, fits, num_fits, HLM_FIELD_OMIT_DEFAULT, 0.0, 1024.0, &fit_table,
         "How well the profile gives its own measurements back."),
    {.name = "left_out",
     .type = HLM_JSON_STRINGS,
     .offset = offsetof(T, left_out),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .count_offset = offsetof(T, num_left_out),
     .max = 1024.0,
     .doc = "What was not measured, and why."},
    {.name = NULL},
};
static const struct hlm_json_table meta_table = {"device_meta", sizeof(T), meta_fields};
#undef T

#define T struct hlm_device
static const struct hlm_json_field device_fields[] = {
    {.name = "name",
     .type = HLM_JSON_STRING,
     .offset = offsetof(T, name),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "Name: <chip>-<form>[-<memory>]."},
    {.name = "backend",
     .type = HLM_JSON_ENUM,
     .offset = offsetof(T, backend),
     .flags = HLM_FIELD_REQUIRED,
     .enums = backend_texts,
     .doc = "What runs on it."},
    {.name = "memory_bytes",
     .type = HLM_JSON_INT64,
     .offset = offsetof(T, memory_bytes),
     .flags = HLM_FIELD_REQUIRED,
     .min = 1.0,
     .max = 1e15,
     .doc = "Memory that one rank may use, all of it, in bytes."},
    {.name = "num_sms",
     .type = HLM_JSON_INT,
     .offset = offsetof(T, num_sms),
     .max = 100000.0,
     .doc = "Streaming multiprocessors; 0 on cpu."},
    ROWS(T, dtypes, num_dtypes, HLM_FIELD_REQUIRED, 1.0, HLM_NUM_DTYPES, &dtype_table,
         "Supported number formats."),
    {.name = "memory",
     .type = HLM_JSON_OBJECT,
     .offset = offsetof(T, memory),
     .flags = HLM_FIELD_REQUIRED,
     .table = &memory_table,
     .doc = "Memory-bound operators without a curve of their own."},
    ROWS(T, ops, num_ops, HLM_FIELD_OMIT_DEFAULT, 0.0, 256.0, &op_table,
         "Curves of memory-bound operators."),
    REQUIRED_NUMBER(T, launch_overhead_s, 0.0, 1.0, "Host time to launch one kernel, in seconds."),
    SOURCE(T, launch_source, "Where launch_overhead_s comes from."),
    {.name = "fixed_memory_bytes",
     .type = HLM_JSON_INT64,
     .offset = offsetof(T, fixed_memory_bytes),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0.0,
     .max = 1e15,
     .doc = "Context, libraries, communication buffers, workspace, in bytes."},
    SOURCE(T, memory_source, "Where memory_bytes and fixed_memory_bytes come from."),
    {.name = "shared_memory_slowdown",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(T, shared_memory_slowdown),
     .min = 1.0,
     .max = 1000.0,
     .def = 1.0,
     .doc = "Slowdown of operators on large slabs while every core runs one (cpu)."},
    {.name = "repeat_operators",
     .type = HLM_JSON_INT,
     .offset = offsetof(T, repeat_operators),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .max = 1000.0,
     .doc = "How often run executes each operator (cpu), and the profile did: a slow device made "
            "out of a fast one; 0: once."},
    {.name = "meta",
     .type = HLM_JSON_POINTER,
     .offset = offsetof(T, meta),
     .flags = HLM_FIELD_META | HLM_FIELD_OMIT_DEFAULT,
     .table = &meta_table,
     .doc = "How the device was while it was measured."},
    {.name = NULL},
};
const struct hlm_json_table hlm_device_table = {"device", sizeof(T), device_fields};
#undef T

static enum hlm_status check_gemm(const struct hlm_device *device,
                                  const struct hlm_device_dtype *row, const char *where,
                                  struct hlm_err *err)
{
    const char *text = hlm_dtype_texts[row->dtype];
    for (int32_t i = 0; i < row->num_gemm; i++) {
        const struct hlm_gemm_curve *curve = &row->gemm[i];
        for (int32_t j = 0; j < i; j++) {
            if (row->gemm[j].layout == curve->layout) {
                return hlm_fail(err, HLM_INPUT,
                                "%s: %s.gemm[%d].layout: expected one curve a layout, found a "
                                "second one for \"%s\"",
                                where, text, (int)i, layout_texts[curve->layout]);
            }
        }
        if (curve->form == HLM_GEMM_FORM_TILE && curve->power_p < 1.0) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: %s.gemm[%d].power_p: expected at least 1 for form tile, found %g",
                            where, text, (int)i, curve->power_p);
        }
        if (curve->form == HLM_GEMM_FORM_TILE && device->num_sms < 1) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: num_sms: expected at least 1, since %s.gemm[%d] has form tile, "
                            "found %d",
                            where, text, (int)i, (int)device->num_sms);
        }
    }
    return HLM_OK;
}

static enum hlm_status check_dtype(const struct hlm_device *device, int32_t index,
                                   const char *where, struct hlm_err *err)
{
    const struct hlm_device_dtype *row = &device->dtypes[index];
    for (int32_t j = 0; j < index; j++) {
        if (device->dtypes[j].dtype == row->dtype) {
            return hlm_fail(err, HLM_INPUT, "%s: dtypes[%d].dtype: \"%s\" is there twice", where,
                            (int)index, hlm_dtype_texts[row->dtype]);
        }
    }
    for (int32_t i = 0; i < row->num_attention; i++) {
        for (int32_t j = 0; j < i; j++) {
            if (row->attention[i].backward == row->attention[j].backward &&
                row->attention[i].causal == row->attention[j].causal &&
                row->attention[i].keeps_probs == row->attention[j].keeps_probs &&
                row->attention[i].kernel == row->attention[j].kernel) {
                return hlm_fail(err, HLM_INPUT,
                                "%s: %s.attention[%d]: a second curve for the same pass and mask",
                                where, hlm_dtype_texts[row->dtype], (int)i);
            }
        }
    }
    return check_gemm(device, row, where, err);
}

static enum hlm_status check_ops(const struct hlm_device *device, const char *where,
                                 struct hlm_err *err)
{
    for (int32_t i = 0; i < device->num_ops; i++) {
        const struct hlm_op_curve *op = &device->ops[i];
        for (int32_t j = 0; j < i; j++) {
            if (strcmp(device->ops[j].op, op->op) == 0) {
                return hlm_fail(err, HLM_INPUT, "%s: ops[%d].op: \"%.100s\" is there twice", where,
                                (int)i, op->op);
            }
        }
        const struct hlm_curve curve = {op->points, op->num_points};
        enum hlm_status status = hlm_curve_validate(&curve, "points", err);
        if (status != HLM_OK) {
            hlm_err_prefix(err, "%s: ops[%d]", where, (int)i);
            return status;
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_device_validate(const struct hlm_device *device, const char *where,
                                    struct hlm_err *err)
{
    if (device->name[0] == '\0' || strpbrk(device->name, ":+/") != NULL) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: name: expected a text without ':', '+' and '/', found \"%.100s\"",
                        where, device->name);
    }
    if (device->fixed_memory_bytes >= device->memory_bytes) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: fixed_memory_bytes: expected less than memory_bytes (%lld), found "
                        "%lld",
                        where, (long long)device->memory_bytes,
                        (long long)device->fixed_memory_bytes);
    }
    for (int32_t i = 0; i < device->num_dtypes; i++) {
        HLM_TRY(check_dtype(device, i, where, err));
    }
    return check_ops(device, where, err);
}

static enum hlm_status read_builtin(struct hlm_arena *arena, const struct hlm_builtin *builtin,
                                    const struct hlm_device **out, struct hlm_err *err)
{
    struct hlm_device *device = HLM_ARENA_NEW(arena, struct hlm_device);
    HLM_TRY(hlm_json_read_text(arena, builtin->name, builtin->text, builtin->length,
                               &hlm_device_table, device, err));
    HLM_TRY(hlm_device_validate(device, builtin->name, err));
    *out = device;
    return HLM_OK;
}

static enum hlm_status read_path(struct hlm_arena *arena, const char *path,
                                 const struct hlm_device **out, struct hlm_err *err)
{
    struct hlm_device *device = HLM_ARENA_NEW(arena, struct hlm_device);
    HLM_TRY(hlm_json_read_file(arena, path, &hlm_device_table, device, err));
    HLM_TRY(hlm_device_validate(device, path, err));
    *out = device;
    return HLM_OK;
}

enum hlm_status hlm_device_load(struct hlm_arena *arena, const char *name_or_path,
                                const struct hlm_device **out, struct hlm_err *err)
{
    if (hlm_resolve_is_path(name_or_path)) {
        return read_path(arena, name_or_path, out, err);
    }
    const struct hlm_builtin *builtin = NULL;
    const enum hlm_status status =
        hlm_resolve_builtin(arena, folder, "device", name_or_path, &builtin, err);
    struct stat info;
    if (status != HLM_OK && stat(name_or_path, &info) == 0 && S_ISREG(info.st_mode)) {
        return read_path(arena, name_or_path, out, err);
    }
    HLM_TRY(status);
    return read_builtin(arena, builtin, out, err);
}

const char *hlm_device_builtin_name(int index)
{
    const struct hlm_builtin *builtin = hlm_builtin_at(folder, index);
    return builtin == NULL ? NULL : builtin->name;
}

const struct hlm_device_dtype *hlm_device_dtype(const struct hlm_device *device,
                                                enum hlm_dtype dtype)
{
    for (int32_t i = 0; i < device->num_dtypes; i++) {
        if (device->dtypes[i].dtype == dtype) {
            return &device->dtypes[i];
        }
    }
    return NULL;
}
