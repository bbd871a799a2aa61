/* The two readers of models: our own files, and Hugging Face's config.json. Whatever one of them
 * accepts must be a model that can be counted, written, and read back to the same text. */
#include <math.h>
#include <string.h>

#include "profiles/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct hlm_arena *arena, const struct hlm_model *model)
{
    HLM_ASSERT(isfinite(hlm_model_num_params(model)));
    HLM_ASSERT(hlm_model_num_active_params(model) <= hlm_model_num_params(model));
    HLM_ASSERT(hlm_model_num_mtp_params(model) >= 0.0);
    HLM_ASSERT(hlm_model_flops_per_sequence(model, model->seq_len, true) <=
               hlm_model_flops_per_sequence(model, model->seq_len, false));
    HLM_ASSERT(hlm_model_padded_vocab(model, 8) >= model->vocab_size);
    struct hlm_err err;
    struct hlm_model again;
    const char *text = hlm_json_write(arena, &hlm_model_table, model, false);
    HLM_ASSERT(hlm_json_read_text(arena, "again", text, strlen(text), &hlm_model_table, &again,
                                  &err) == HLM_OK);
    HLM_ASSERT(hlm_model_validate(&again, "again", &err) == HLM_OK);
    HLM_ASSERT(strcmp(hlm_json_write(arena, &hlm_model_table, &again, false), text) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_model own;
    if (hlm_json_read_text(arena, "own", (const char *)data, size, &hlm_model_table, &own, &err) ==
        HLM_OK) {
        hlm_model_complete(&own);
        if (hlm_model_validate(&own, "own", &err) == HLM_OK) {
            use(arena, &own);
        }
    }
    const struct hlm_model *imported = NULL;
    if (hlm_model_import_hf(arena, "hub/config.json", (const char *)data, size, &imported, &err) ==
        HLM_OK) {
        use(arena, imported);
    }
    hlm_arena_free(arena);
    return 0;
}
