/* Predicted against published measured kernels: the formulas and the built-in curves must reproduce
 * the tables that the curves were fitted to, and other tables up to the one factor that their
 * profile names. */
#include "tests/support/check.h"
#include "tests/support/table.h"

#include "costmodel/kernel.h"

/* Columns: gpu dtype layout m n k time_us tflops kernel src */
struct gemm_case {
    const char *gpu, *layout, *source, *kernel; /* kernel: part of the column */
    const char *device;
    enum hlm_dtype dtype;
    const char *dtype_text;
    double scale; /* measured time of this source over the profile's */
    double max_median;
    int min_rows;
};

static const struct gemm_case gemm_cases[] = {
    {"A100-80-SXM", "TN", "vidur", "", "a100-sxm-80g", HLM_DTYPE_FP16, "fp16", 1.0, 0.04, 5000},
    {"A100-80-SXM", "TN", "aic", "trtllm", "a100-sxm-80g", HLM_DTYPE_BF16, "bf16", 1 / 1.12, 0.06,
     1000},
    {"A100-80-PCIe", "TN", "simumax", "te", "a100-sxm-80g", HLM_DTYPE_BF16, "bf16", 1.0, 0.03, 50},
    {"A100-80-PCIe", "NN", "simumax", "te", "a100-sxm-80g", HLM_DTYPE_BF16, "bf16", 1.0, 0.03, 50},
    {"A100-80-PCIe", "NT", "simumax", "te", "a100-sxm-80g", HLM_DTYPE_BF16, "bf16", 1.0, 0.03, 50},
    {"H100-SXM", "TN", "vidur", "", "h100-sxm-80g", HLM_DTYPE_FP16, "fp16", 0.95, 0.05, 1200},
    {"H100-SXM", "NN", "xla", "xla", "h100-sxm-80g", HLM_DTYPE_BF16, "bf16", 0.95 / 1.05, 0.06, 40},
    {"H100-SXM", "TN", "aic", "trtllm", "h100-sxm-80g", HLM_DTYPE_BF16, "bf16", 0.95 / 1.10, 0.065,
     5000},
    {"A100-80-PCIe", "TN", "neusight", "", "a100-sxm-80g", HLM_DTYPE_FP32, "fp32", 1.0, 0.05, 800},
    {"H100-SXM", "TN", "neusight", "", "h100-sxm-80g", HLM_DTYPE_FP32, "fp32", 1.0, 0.05, 800},
};
enum { NUM_GEMM_CASES = sizeof gemm_cases / sizeof gemm_cases[0] };

static FILE *open_table(const char *name)
{
    char path[200];
    snprintf(path, sizeof path, TABLE_FOLDER "/%s", name);
    return fopen(path, "r");
}

static enum hlm_gemm_layout layout_of(const char *text)
{
    return text[0] == 'N' ? (text[1] == 'T' ? HLM_GEMM_NT : HLM_GEMM_NN) : HLM_GEMM_TN;
}

/* m, n, k of the tables are tokens, output features and reduction, for every layout. */
static struct hlm_op gemm_op(char *const *fields, enum hlm_dtype dtype)
{
    const double m = atof(fields[3]), n = atof(fields[4]), k = atof(fields[5]);
    const double e = hlm_dtype_bytes(dtype);
    return (struct hlm_op){.kind = HLM_OP_GEMM,
                           .dtype = dtype,
                           .layout = layout_of(fields[2]),
                           .m = (int64_t)m,
                           .n = (int64_t)n,
                           .k = (int64_t)k,
                           .flops = 2.0 * m * n * k,
                           .bytes = e * (m * k + k * n + m * n)};
}

static void use_gemm_row(char *const *fields, const struct hlm_device *const *devices,
                         struct error_list *errors)
{
    const bool trained =
        atof(fields[3]) >= 1024 && atof(fields[4]) >= 512 && atof(fields[5]) >= 512;
    for (int i = 0; trained && i < NUM_GEMM_CASES; i++) {
        const struct gemm_case *c = &gemm_cases[i];
        if (strcmp(fields[0], c->gpu) == 0 && strcmp(fields[1], c->dtype_text) == 0 &&
            strcmp(fields[2], c->layout) == 0 && strcmp(fields[9], c->source) == 0 &&
            strstr(fields[8], c->kernel) != NULL && strstr(fields[8], "b=") == NULL) {
            const struct hlm_op op = gemm_op(fields, c->dtype);
            error_add(&errors[i], hlm_kernel_seconds(devices[i], &op) * c->scale,
                      atof(fields[6]) * 1e-6);
        }
    }
}

static void test_gemm(void **state)
{
    (void)state;
    FILE *file = open_table("gemm.csv");
    if (file == NULL) {
        skip();
        return;
    }
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_device *devices[NUM_GEMM_CASES];
    struct error_list errors[NUM_GEMM_CASES] = {0};
    for (int i = 0; i < NUM_GEMM_CASES; i++) {
        check_ok(hlm_device_load(arena, gemm_cases[i].device, &devices[i], &err), &err);
    }
    char line[1000], *fields[TABLE_MAX_FIELDS];
    while (fgets(line, sizeof line, file) != NULL) {
        if (table_split(line, fields) == 10) {
            use_gemm_row(fields, devices, errors);
        }
    }
    fclose(file);
    for (int i = 0; i < NUM_GEMM_CASES; i++) {
        const struct gemm_case *c = &gemm_cases[i];
        const double median = error_quantile(&errors[i], 0.5);
        print_message("%-13s %s %s %-8s %5d products: median error %.1f %%, p90 %.1f %%\n", c->gpu,
                      c->dtype_text, c->layout, c->source, errors[i].num, 100.0 * median,
                      100.0 * error_quantile(&errors[i], 0.9));
        assert_true(errors[i].num >= c->min_rows);
        assert_true(median <= c->max_median);
        free(errors[i].values);
    }
    hlm_arena_free(arena);
}

/* Columns: gpu dtype pass causal b s_q s_kv h_q h_kv d_qk d_v time_us tflops kernel src */
struct attention_case {
    const char *gpu, *dtype_text, *pass, *causal, *kernel, *device;
    double max_median;
    int min_rows;
    enum hlm_attention_kernel which;
};

static const struct attention_case attention_cases[] = {
    {"A100-80-SXM", "fp16", "fwd+bwd", "1", "fa2", "a100-sxm-80g", 0.02, 12, HLM_ATTENTION_BEST},
    {"A100-80-SXM", "fp16", "fwd+bwd", "0", "fa2", "a100-sxm-80g", 0.02, 9, HLM_ATTENTION_BEST},
    {"A100-80-SXM", "bf16", "fwd", "1", "sglang0.5.10:flash_attention", "a100-sxm-80g", 0.15, 100,
     HLM_ATTENTION_BEST},
    {"A100-80-SXM", "fp16", "fwd+bwd", "1", "fa1", "a100-sxm-80g", 0.07, 12, HLM_ATTENTION_FLASH_1},
    {"H100-SXM", "fp16", "fwd", "1", "fa2", "h100-sxm-80g", 0.03, 18, HLM_ATTENTION_FLASH_2},
    {"H100-SXM", "fp16", "fwd+bwd", "1", "fa2", "h100-sxm-80g", 0.05, 12, HLM_ATTENTION_FLASH_2},
    {"H100-SXM", "fp16", "fwd+bwd", "0", "fa2", "h100-sxm-80g", 0.05, 12, HLM_ATTENTION_FLASH_2},
    {"H100-SXM", "fp16", "fwd", "1", "fa3", "h100-sxm-80g", 0.04, 18, HLM_ATTENTION_BEST},
    {"H100-SXM", "fp16", "fwd", "0", "fa3", "h100-sxm-80g", 0.05, 17, HLM_ATTENTION_BEST},
    {"H200-SXM", "bf16", "bwd", "1", "cudnn91901", "h100-sxm-80g", 0.02, 5, HLM_ATTENTION_BEST},
    {"H200-SXM", "bf16", "bwd", "0", "cudnn91901", "h200-sxm-141g", 0.02, 5, HLM_ATTENTION_BEST},
    {"H200-SXM", "bf16", "fwd", "1", "cudnn91901", "h200-sxm-141g", 0.02, 5, HLM_ATTENTION_BEST},
    {"H200-SXM", "bf16", "fwd", "0", "cudnn91901", "h200-sxm-141g", 0.02, 5, HLM_ATTENTION_BEST},
};
enum { NUM_ATTENTION_CASES = sizeof attention_cases / sizeof attention_cases[0] };

/* The operator of one pass, with the traffic of fused attention: q, k, v, out (twice in backward).
 */
static struct hlm_op attention_op(char *const *fields, bool backward,
                                  enum hlm_attention_kernel which)
{
    const double batch = atof(fields[4]), seq = atof(fields[5]), heads = atof(fields[7]);
    const double kv_heads = atof(fields[8]), dims = atof(fields[9]) + atof(fields[10]);
    const bool causal = fields[3][0] == '1';
    const double forward = 2.0 * batch * heads * seq * seq * dims * (causal ? 0.5 : 1.0);
    const double traffic = 2.0 * batch * seq * (heads + kv_heads) * dims;
    return (struct hlm_op){
        .kind = backward ? HLM_OP_ATTENTION_BWD : HLM_OP_ATTENTION_FWD,
        .dtype = HLM_DTYPE_BF16,
        .operands = {-1, -1, -1, -1, -1, -1, -1, -1},
        .attention_kernel = which,
        .batch = (int32_t)batch,
        .seq_len = (int64_t)seq,
        .heads = (int32_t)heads,
        .kv_heads = (int32_t)kv_heads,
        .head_dim = (int64_t)atof(fields[9]),
        .v_head_dim = (int64_t)atof(fields[10]),
        .causal = causal,
        .flops = backward ? 2.5 * forward : forward,
        .bytes = backward ? 2.0 * traffic : traffic,
    };
}

static void use_attention_row(char *const *fields, const struct hlm_device *const *devices,
                              struct error_list *errors)
{
    const bool trained = strcmp(fields[5], fields[6]) == 0 && atof(fields[5]) >= 512;
    for (int i = 0; trained && i < NUM_ATTENTION_CASES; i++) {
        const struct attention_case *c = &attention_cases[i];
        if (strcmp(fields[0], c->gpu) != 0 || strcmp(fields[1], c->dtype_text) != 0 ||
            strcmp(fields[2], c->pass) != 0 || strcmp(fields[3], c->causal) != 0 ||
            strcmp(fields[13], c->kernel) != 0) {
            continue;
        }
        const struct hlm_op forward = attention_op(fields, false, c->which);
        const struct hlm_op backward = attention_op(fields, true, c->which);
        double seconds = 0.0;
        if (strcmp(c->pass, "bwd") != 0) {
            seconds += hlm_kernel_seconds(devices[i], &forward);
        }
        if (strcmp(c->pass, "fwd") != 0) {
            seconds += hlm_kernel_seconds(devices[i], &backward);
        }
        error_add(&errors[i], seconds, atof(fields[11]) * 1e-6);
    }
}

static void test_attention(void **state)
{
    (void)state;
    FILE *file = open_table("attention.csv");
    if (file == NULL) {
        skip();
        return;
    }
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_device *devices[NUM_ATTENTION_CASES];
    struct error_list errors[NUM_ATTENTION_CASES] = {0};
    for (int i = 0; i < NUM_ATTENTION_CASES; i++) {
        check_ok(hlm_device_load(arena, attention_cases[i].device, &devices[i], &err), &err);
    }
    char line[1000], *fields[TABLE_MAX_FIELDS];
    while (fgets(line, sizeof line, file) != NULL) {
        if (table_split(line, fields) == 15) {
            use_attention_row(fields, devices, errors);
        }
    }
    fclose(file);
    for (int i = 0; i < NUM_ATTENTION_CASES; i++) {
        const struct attention_case *c = &attention_cases[i];
        const double median = error_quantile(&errors[i], 0.5);
        print_message("%-13s %-7s causal %s %-28s %4d: median error %.1f %%, p90 %.1f %%\n", c->gpu,
                      c->pass, c->causal, c->kernel, errors[i].num, 100.0 * median,
                      100.0 * error_quantile(&errors[i], 0.9));
        assert_true(errors[i].num >= c->min_rows);
        assert_true(median <= c->max_median);
        free(errors[i].values);
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
