#include "exec/data.h"

#include <string.h>

#include "base/file.h"
#include "base/rng.h"

struct hlm_data {
    const struct hlm_model *model;
    int64_t seq_len;
    uint64_t tokens_key, offset_key, mask_key, pixels_key, labels_key;
    const unsigned char *text; /* NULL: synthetic */
    int64_t text_bytes;
};

enum { MAX_TEXT_BYTES = 1 << 30, BYTE_VALUES = 256 };
static const double mask_frac = 0.15;

static uint64_t make_key(const char *name, uint64_t seed)
{
    return hlm_hash(HLM_HASH_START, name, strlen(name)) ^ seed;
}

static enum hlm_status open_text(struct hlm_arena *arena, const char *path, struct hlm_data *data,
                                 struct hlm_err *err)
{
    const struct hlm_model *model = data->model;
    if (model->kind == HLM_MODEL_VIT) {
        return hlm_fail(err, HLM_INPUT, "%s: model %s takes images, a text file can't feed it",
                        path, model->name);
    }
    if (model->vocab_size < BYTE_VALUES) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: bytes need a vocab_size of at least %d, model %s has %lld", path,
                        BYTE_VALUES, model->name, (long long)model->vocab_size);
    }
    const char *text = NULL;
    size_t length = 0;
    HLM_TRY(hlm_file_read(arena, path, MAX_TEXT_BYTES, &text, &length, err));
    if ((int64_t)length < data->seq_len + 2) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: expected at least seq_len + 2 = %lld bytes, found %lld", path,
                        (long long)(data->seq_len + 2), (long long)length);
    }
    data->text = (const unsigned char *)text;
    data->text_bytes = (int64_t)length;
    return HLM_OK;
}

enum hlm_status hlm_data_open(struct hlm_arena *arena, const char *path,
                              const struct hlm_model *model, int64_t seq_len, uint64_t seed,
                              const struct hlm_data **out, struct hlm_err *err)
{
    struct hlm_data *data = HLM_ARENA_NEW(arena, struct hlm_data);
    *data = (struct hlm_data){.model = model,
                              .seq_len = seq_len,
                              .tokens_key = make_key("tokens", seed),
                              .offset_key = make_key("offset", seed),
                              .mask_key = make_key("mask", seed),
                              .pixels_key = make_key("pixels", seed),
                              .labels_key = make_key("labels", seed)};
    if (path != NULL) {
        HLM_TRY(open_text(arena, path, data, err));
    }
    *out = data;
    return HLM_OK;
}

static int32_t token_at(const struct hlm_data *data, int64_t sample, int64_t position)
{
    if (data->text != NULL) {
        const double range = (double)(data->text_bytes - data->seq_len);
        const int64_t offset =
            (int64_t)(hlm_rng_uniform(data->offset_key, (uint64_t)sample) * range);
        return data->text[offset + position];
    }
    const uint64_t index = (uint64_t)(sample * (data->seq_len + 1) + position);
    return (int32_t)(hlm_rng_uniform(data->tokens_key, index) * (double)data->model->vocab_size);
}

static bool is_masked(const struct hlm_data *data, int64_t sample, int64_t position)
{
    const uint64_t index = (uint64_t)(sample * data->seq_len + position);
    return position == sample % data->seq_len || hlm_rng_uniform(data->mask_key, index) < mask_frac;
}

static void fill_decoder(const struct hlm_data *data, const struct hlm_context *context,
                         int64_t sample, int32_t *tokens, int32_t *targets)
{
    const int64_t count = hlm_context_own_len(context, data->seq_len);
    for (int64_t i = 0; i < count; i++) {
        const int64_t j = hlm_context_position(context, data->seq_len, i);
        if (tokens != NULL) {
            tokens[i] = token_at(data, sample, j);
        }
        if (targets != NULL) {
            targets[i] = token_at(data, sample, j + 1);
        }
    }
}

static void fill_encoder(const struct hlm_data *data, const struct hlm_context *context,
                         int64_t sample, int32_t *tokens, int32_t *targets)
{
    const int64_t count = hlm_context_own_len(context, data->seq_len);
    for (int64_t i = 0; i < count; i++) {
        const int64_t j = hlm_context_position(context, data->seq_len, i);
        const int32_t token = token_at(data, sample, j);
        const bool masked = is_masked(data, sample, j);
        if (tokens != NULL) {
            tokens[i] = masked ? (int32_t)data->model->vocab_size - 1 : token;
        }
        if (targets != NULL) {
            targets[i] = masked ? token : -1;
        }
    }
}

static void fill_image(const struct hlm_data *data, int64_t sample, int32_t *targets, float *pixels)
{
    const struct hlm_model_vit *vit = &data->model->vit;
    const int64_t count = vit->num_channels * vit->image_size * vit->image_size;
    for (int64_t i = 0; pixels != NULL && i < count; i++) {
        pixels[i] = (float)hlm_rng_normal(data->pixels_key, (uint64_t)(sample * count + i));
    }
    if (targets != NULL) {
        targets[0] = (int32_t)(hlm_rng_uniform(data->labels_key, (uint64_t)sample) *
                               (double)vit->num_classes);
    }
}

void hlm_data_sample(const struct hlm_data *data, int64_t sample, int32_t *tokens, int32_t *targets,
                     float *pixels)
{
    static const struct hlm_context whole = {.ranks = 1, .chunks = 1};
    hlm_data_share(data, &whole, sample, tokens, targets, pixels);
}

void hlm_data_share(const struct hlm_data *data, const struct hlm_context *context, int64_t sample,
                    int32_t *tokens, int32_t *targets, float *pixels)
{
    HLM_ASSERT(context->ranks == 1 || data->model->kind != HLM_MODEL_VIT);
    switch (data->model->kind) {
    case HLM_MODEL_DECODER:
        fill_decoder(data, context, sample, tokens, targets);
        break;
    case HLM_MODEL_ENCODER:
        fill_encoder(data, context, sample, tokens, targets);
        break;
    case HLM_MODEL_VIT:
        fill_image(data, sample, targets, pixels);
        break;
    }
}

int64_t hlm_data_num_targets(const struct hlm_data *data, int64_t first, int64_t count)
{
    if (data->model->kind != HLM_MODEL_ENCODER) {
        return data->model->kind == HLM_MODEL_VIT ? count : count * data->seq_len;
    }
    int64_t num_targets = 0;
    for (int64_t sample = first; sample < first + count; sample++) {
        for (int64_t j = 0; j < data->seq_len; j++) {
            num_targets += is_masked(data, sample, j) ? 1 : 0;
        }
    }
    return num_targets;
}
