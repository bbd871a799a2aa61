#include "exec/profiler/profiler_choices.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"

enum { NUM_ALIGNMENTS = 3, HEX_LENGTH = 2 * HLM_CUDA_ALGORITHM_BYTES };

static const char *const epilogue_texts[] = {
#define X(name, text) text,
    HLM_CUDA_EPILOGUE_MAP(X)
#undef X
        NULL};
static const char *const layout_texts[] = {
#define X(name, text) text,
    HLM_GEMM_LAYOUT_MAP(X)
#undef X
        NULL};

/* As the file has it. */
struct stored_choice {
    int epilogue, layout, dtype;
    bool fp32_result, accumulate, fused;
    int64_t m, n, k;
    const int32_t *alignment;
    int32_t num_alignments;
    double time_s;
    const char *algorithm; /* hexadecimal */
};
struct stored {
    int32_t choices_version; /* the file has a version of its own */
    int64_t cublas;
    const char *device;
    int32_t major, minor, num_sms;
    const struct stored_choice *list;
    int32_t num;
};

#define FIELD(member_, type_, doc_)                                                                \
    .name = #member_, .type = (type_), .offset = offsetof(T, member_),                             \
    .flags = HLM_FIELD_REQUIRED, .doc = (doc_)

#define T struct stored_choice
static const struct hlm_json_field choice_fields[] = {
    {FIELD(epilogue, HLM_JSON_ENUM, "What follows the product in the same call."),
     .enums = epilogue_texts},
    {FIELD(layout, HLM_JSON_ENUM, "Operand layout."), .enums = layout_texts},
    {FIELD(dtype, HLM_JSON_ENUM, "Of the operands."), .enums = hlm_dtype_texts},
    {FIELD(fp32_result, HLM_JSON_BOOL, "Whether the result is fp32.")},
    {FIELD(accumulate, HLM_JSON_BOOL, "Whether the product is added to the result.")},
    {FIELD(m, HLM_JSON_INT64, "Rows of the result."), .min = 1.0, .max = 1e12},
    {FIELD(n, HLM_JSON_INT64, "Columns of the result."), .min = 1.0, .max = 1e12},
    {FIELD(k, HLM_JSON_INT64, "Length of the sums."), .min = 1.0, .max = 1e12},
    {FIELD(alignment, HLM_JSON_INTS, "Of the addresses of a, b and c, in bytes."),
     .count_offset = offsetof(T, num_alignments), .min = NUM_ALIGNMENTS, .max = NUM_ALIGNMENTS},
    {FIELD(fused, HLM_JSON_BOOL, "Whether the epilogue was worth it.")},
    {FIELD(time_s, HLM_JSON_DOUBLE, "Median when it was chosen, in seconds; 0: not timed."),
     .max = 1e6},
    {FIELD(algorithm, HLM_JSON_STRING, "Bytes of the library's algorithm, in hexadecimal.")},
    {.name = NULL},
};
static const struct hlm_json_table choice_table = {"product_choice", sizeof(T), choice_fields};
#undef T

#define T struct stored
static const struct hlm_json_field fields[] = {
    {FIELD(choices_version, HLM_JSON_INT, "Of the meaning of the algorithms.")},
    {FIELD(cublas, HLM_JSON_INT64, "Version of the matrix library."), .max = 1e12},
    {FIELD(device, HLM_JSON_STRING, "As the driver calls it.")},
    {FIELD(major, HLM_JSON_INT, "Compute capability."), .max = 1e4},
    {FIELD(minor, HLM_JSON_INT, "Its second part."), .max = 1e4},
    {FIELD(num_sms, HLM_JSON_INT, "Multiprocessors."), .max = 1e6},
    {FIELD(list, HLM_JSON_ARRAY, "Choices in the order of first use."), .table = &choice_table,
     .count_offset = offsetof(T, num), .max = 1e6},
    {.name = NULL},
};
static const struct hlm_json_table table = {"products", sizeof(T), fields};
#undef T

/* --- out --- */

static const char *hex_of(struct hlm_arena *arena, const unsigned char *bytes)
{
    char *hex = HLM_ARENA_ARRAY(arena, char, HEX_LENGTH + 1);
    for (int32_t i = 0; i < HLM_CUDA_ALGORITHM_BYTES; i++) {
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    }
    return hex;
}

static struct stored_choice store(struct hlm_arena *arena, const struct hlm_cuda_choice *choice)
{
    const struct hlm_cuda_shape *shape = &choice->shape;
    return (struct stored_choice){.epilogue = (int)shape->epilogue,
                                  .layout = (int)shape->layout,
                                  .dtype = (int)shape->dtype,
                                  .fp32_result = shape->fp32_result,
                                  .accumulate = shape->accumulate,
                                  .fused = choice->fused,
                                  .m = shape->m,
                                  .n = shape->n,
                                  .k = shape->k,
                                  .alignment = shape->alignment,
                                  .num_alignments = NUM_ALIGNMENTS,
                                  .time_s = choice->time_s,
                                  .algorithm = hex_of(arena, choice->algorithm)};
}

enum hlm_status hlm_profiler_choices_write(struct hlm_arena *arena,
                                           const struct hlm_cuda_choices *choices, const char *path,
                                           struct hlm_err *err)
{
    struct stored_choice *list = HLM_ARENA_ARRAY(arena, struct stored_choice, choices->num + 1);
    for (int32_t i = 0; i < choices->num; i++) {
        list[i] = store(arena, &choices->list[i]);
    }
    const struct stored stored = {.choices_version = choices->version,
                                  .cublas = choices->cublas,
                                  .device = choices->device,
                                  .major = choices->major,
                                  .minor = choices->minor,
                                  .num_sms = choices->num_sms,
                                  .list = list,
                                  .num = choices->num};
    const char *text = hlm_json_write(arena, &table, &stored, false);
    return hlm_file_write(path, text, strlen(text), err);
}

/* --- in --- */

static bool read_hex(const char *hex, unsigned char *bytes)
{
    if (strlen(hex) != HEX_LENGTH || strspn(hex, "0123456789abcdef") != HEX_LENGTH) {
        return false;
    }
    for (int32_t i = 0; i < HLM_CUDA_ALGORITHM_BYTES; i++) {
        unsigned byte = 0;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1) {
            return false;
        }
        bytes[i] = (unsigned char)byte;
    }
    return true;
}

static enum hlm_status restore(const char *path, int32_t index, const struct stored_choice *stored,
                               struct hlm_cuda_choice *out, struct hlm_err *err)
{
    *out = (struct hlm_cuda_choice){.shape = {.epilogue = (enum hlm_cuda_epilogue)stored->epilogue,
                                              .layout = (enum hlm_gemm_layout)stored->layout,
                                              .dtype = (enum hlm_dtype)stored->dtype,
                                              .fp32_result = stored->fp32_result,
                                              .accumulate = stored->accumulate,
                                              .m = stored->m,
                                              .n = stored->n,
                                              .k = stored->k},
                                    .fused = stored->fused,
                                    .time_s = stored->time_s};
    memcpy(out->shape.alignment, stored->alignment, sizeof out->shape.alignment);
    if (!read_hex(stored->algorithm, out->algorithm)) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.list[%d].algorithm: expected %d hexadecimal digits, found "
                        "\"%.100s\"",
                        path, (int)index, HEX_LENGTH, stored->algorithm);
    }
    return HLM_OK;
}

enum hlm_status hlm_profiler_choices_read(struct hlm_arena *arena, const char *path,
                                          struct hlm_cuda_choices *out, struct hlm_err *err)
{
    struct stored stored;
    HLM_TRY(hlm_json_read_file(arena, path, &table, &stored, err));
    struct hlm_cuda_choice *list = HLM_ARENA_ARRAY(arena, struct hlm_cuda_choice, stored.num + 1);
    for (int32_t i = 0; i < stored.num; i++) {
        HLM_TRY(restore(path, i, &stored.list[i], &list[i], err));
    }
    struct hlm_cuda_choices choices = {.version = stored.choices_version,
                                       .cublas = stored.cublas,
                                       .major = stored.major,
                                       .minor = stored.minor,
                                       .num_sms = stored.num_sms,
                                       .list = list,
                                       .num = stored.num};
    snprintf(choices.device, sizeof choices.device, "%s", stored.device);
    *out = choices;
    return HLM_OK;
}
