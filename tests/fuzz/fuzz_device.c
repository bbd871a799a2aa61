/* The reader of devices: whatever it accepts must be priced with finite times, written, and read
 * back to the same text. */
#include <math.h>
#include <string.h>

#include "costmodel/kernel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct hlm_arena *arena, const struct hlm_device *device)
{
    for (int32_t i = 0; i < device->num_dtypes; i++) {
        struct hlm_op op = {.kind = HLM_OP_GEMM,
                            .dtype = device->dtypes[i].dtype,
                            .layout = HLM_GEMM_NT,
                            .m = 1024,
                            .n = 1024,
                            .k = 1024,
                            .batch = 1,
                            .heads = 8,
                            .kv_heads = 8,
                            .seq_len = 1024,
                            .head_dim = 64,
                            .v_head_dim = 64,
                            .flops = 2147483648.0,
                            .bytes = 6291456.0};
        HLM_ASSERT(isfinite(hlm_kernel_seconds(device, &op)));
        op.kind = HLM_OP_ATTENTION_BWD;
        HLM_ASSERT(isfinite(hlm_kernel_seconds(device, &op)));
        op.kind = HLM_OP_NORM_FWD;
        HLM_ASSERT(isfinite(hlm_kernel_seconds(device, &op)));
    }
    struct hlm_err err;
    struct hlm_device again;
    const char *text = hlm_json_write(arena, &hlm_device_table, device, false);
    HLM_ASSERT(hlm_json_read_text(arena, "again", text, strlen(text), &hlm_device_table, &again,
                                  &err) == HLM_OK);
    HLM_ASSERT(hlm_device_validate(&again, "again", &err) == HLM_OK);
    HLM_ASSERT(strcmp(hlm_json_write(arena, &hlm_device_table, &again, false), text) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_device device;
    if (hlm_json_read_text(arena, "own", (const char *)data, size, &hlm_device_table, &device,
                           &err) == HLM_OK &&
        hlm_device_validate(&device, "own", &err) == HLM_OK) {
        use(arena, &device);
    }
    hlm_arena_free(arena);
    return 0;
}
