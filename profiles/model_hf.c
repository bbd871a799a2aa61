#include <string.h>

#include "profiles/model_hf_table.h"

struct import {
    struct hlm_arena *arena;
    const char *where;
    const struct hlm_hf_architecture *architecture;
    const struct hlm_json_foreign *config;
    struct hlm_model *model;
    struct hlm_err *err;
};

/* The row of the model's table, or of one of its sub-objects, that describes the member at
 * `offset`. */
static const struct hlm_json_field *field_at(const struct hlm_json_table *table, size_t offset)
{
    const struct hlm_json_field *field = table->fields;
    for (; field->name != NULL; field++) {
        const bool is_object = field->type == HLM_JSON_OBJECT;
        const size_t size = is_object ? field->table->struct_size : 1;
        if (offset >= field->offset && offset < field->offset + size) {
            return is_object ? field_at(field->table, offset - field->offset) : field;
        }
    }
    HLM_ASSERT(field->name != NULL);
    return field;
}

static enum hlm_status import_int(const struct import *import, const struct hlm_json_foreign *from,
                                  const char *name, const struct hlm_json_field *field,
                                  void *target)
{
    int64_t value = 0;
    bool found = false;
    HLM_TRY(hlm_json_foreign_int64(from, name, (int64_t)field->min, (int64_t)field->max, &value,
                                   &found, import->err));
    if (!found && !hlm_json_foreign_has(from, name)) {
        return HLM_OK;
    }
    if (field->type == HLM_JSON_INT) {
        *(int32_t *)target = (int32_t)value;
    } else {
        *(int64_t *)target = value;
    }
    return HLM_OK;
}

static enum hlm_status import_double(const struct import *import,
                                     const struct hlm_json_foreign *from, const char *name,
                                     const struct hlm_json_field *field, double *target)
{
    double value = 0.0;
    bool found = false;
    HLM_TRY(hlm_json_foreign_double(from, name, &value, &found, import->err));
    if (!found) {
        return HLM_OK;
    }
    if (value < field->min || value > field->max) {
        return hlm_fail(import->err, HLM_INPUT, "%s: $.%s: expected a number in [%g, %g], found %g",
                        import->where, name, field->min, field->max, value);
    }
    *target = value;
    return HLM_OK;
}

/* *out_from: the object that holds the key, NULL when that is absent; *out_name: the key in it. */
static enum hlm_status follow(const struct import *import, const char *path,
                              const struct hlm_json_foreign **out_from, const char **out_name)
{
    const char *dot = strchr(path, '.');
    if (dot == NULL) {
        *out_from = import->config;
        *out_name = path;
        return HLM_OK;
    }
    struct hlm_json_foreign *inner = NULL;
    const char *outer = hlm_arena_strndup(import->arena, path, (size_t)(dot - path));
    HLM_TRY(hlm_json_foreign_object(import->config, outer, &inner, import->err));
    *out_from = inner;
    *out_name = dot + 1;
    return HLM_OK;
}

static enum hlm_status import_field(const struct import *import, const struct hlm_hf_key *key)
{
    const struct hlm_json_foreign *from = NULL;
    const char *name = NULL;
    HLM_TRY(follow(import, key->name, &from, &name));
    if (from == NULL) {
        return HLM_OK;
    }
    const struct hlm_json_field *field = field_at(&hlm_model_table, key->offset);
    void *target = (char *)import->model + key->offset;
    bool found = false;
    switch (field->type) {
    case HLM_JSON_DOUBLE:
        return import_double(import, from, name, field, target);
    case HLM_JSON_BOOL:
        return hlm_json_foreign_bool(from, name, target, &found, import->err);
    default:
        return import_int(import, from, name, field, target);
    }
}

static enum hlm_status import_activation(const struct import *import, const struct hlm_hf_key *key)
{
    static const struct {
        const char *text;
        enum hlm_activation activation;
    } known[] = {
        {"gelu", HLM_ACTIVATION_GELU},      {"gelu_new", HLM_ACTIVATION_GELU},
        {"gelu_fast", HLM_ACTIVATION_GELU}, {"gelu_pytorch_tanh", HLM_ACTIVATION_GELU},
        {"silu", HLM_ACTIVATION_SWIGLU},    {"swish", HLM_ACTIVATION_SWIGLU},
    };
    const char *text = NULL;
    bool found = false;
    HLM_TRY(hlm_json_foreign_string(import->config, key->name, &text, &found, import->err));
    if (!found) {
        return HLM_OK;
    }
    struct hlm_text expected;
    hlm_text_init(&expected, import->arena);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        /* Whether the MLP is gated is the architecture's matter; only the function is the file's.
         */
        if (known[i].activation != import->architecture->base.activation) {
            continue;
        }
        if (strcmp(known[i].text, text) == 0) {
            return HLM_OK;
        }
        hlm_text_printf(&expected, "%s%s", expected.length == 0 ? "" : ", ", known[i].text);
    }
    return hlm_fail(import->err, HLM_INPUT, "%s: $.%s: expected one of %s, found \"%.60s\"",
                    import->where, key->name, expected.text, text);
}

static enum hlm_status import_bool(const struct import *import, const struct hlm_hf_key *key)
{
    struct hlm_model *model = import->model;
    bool value = false, found = false;
    HLM_TRY(hlm_json_foreign_bool(import->config, key->name, &value, &found, import->err));
    if (!found) {
        return HLM_OK;
    }
    if (key->kind == HLM_HF_BIAS) {
        model->bias.qkv = value;
        model->bias.out = value;
    } else if (key->kind == HLM_HF_PARALLEL) {
        model->residual = value ? HLM_RESIDUAL_PARALLEL : HLM_RESIDUAL_SEQUENTIAL;
    } else if (value) {
        return hlm_fail(import->err, HLM_INPUT,
                        "%s: $.%s: expected false (this feature can't be described), found true",
                        import->where, key->name);
    }
    return HLM_OK;
}

static enum hlm_status import_length(const struct import *import, const struct hlm_hf_key *key)
{
    int64_t length = 0;
    bool found = false;
    HLM_TRY(hlm_json_foreign_length(import->config, key->name, &length, &found, import->err));
    if (found && key->kind == HLM_HF_LABELS) {
        import->model->vit.num_classes = length;
    } else if (found && length > 0) {
        return hlm_fail(
            import->err, HLM_INPUT,
            "%s: $.%s: expected an empty array (this feature can't be described), found "
            "%lld entries",
            import->where, key->name, (long long)length);
    }
    return HLM_OK;
}

static enum hlm_status import_absolute(const struct import *import, const struct hlm_hf_key *key)
{
    const char *text = NULL;
    bool found = false;
    HLM_TRY(hlm_json_foreign_string(import->config, key->name, &text, &found, import->err));
    if (found && strcmp(text, "absolute") != 0) {
        return hlm_fail(import->err, HLM_INPUT, "%s: $.%s: expected \"absolute\", found \"%.60s\"",
                        import->where, key->name, text);
    }
    return HLM_OK;
}

static enum hlm_status import_key(const struct import *import, const struct hlm_hf_key *key)
{
    static enum hlm_status (*const by_kind[])(const struct import *, const struct hlm_hf_key *) = {
        [HLM_HF_FIELD] = import_field,   [HLM_HF_ACTIVATION] = import_activation,
        [HLM_HF_BIAS] = import_bool,     [HLM_HF_PARALLEL] = import_bool,
        [HLM_HF_LABELS] = import_length, [HLM_HF_FALSE] = import_bool,
        [HLM_HF_EMPTY] = import_length,  [HLM_HF_ABSOLUTE] = import_absolute,
    };
    return by_kind[key->kind](import, key);
}

static enum hlm_status find_architecture(struct hlm_arena *arena, const char *where,
                                         const struct hlm_json_foreign *config,
                                         const struct hlm_hf_architecture **out,
                                         struct hlm_err *err)
{
    const char *type = NULL;
    bool found = false;
    HLM_TRY(hlm_json_foreign_string(config, "model_type", &type, &found, err));
    struct hlm_text known;
    hlm_text_init(&known, arena);
    for (size_t i = 0; hlm_hf_architectures[i].model_type != NULL; i++) {
        if (found && strcmp(hlm_hf_architectures[i].model_type, type) == 0) {
            *out = &hlm_hf_architectures[i];
            return HLM_OK;
        }
        hlm_text_printf(&known, "%s%s", i == 0 ? "" : ", ", hlm_hf_architectures[i].model_type);
    }
    if (!found) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: expected a model: neither \"schema\": \"hlmplan.model\" nor a Hugging "
                        "Face \"model_type\" is there",
                        where);
    }
    return hlm_fail(err, HLM_INPUT, "%s: $.model_type: expected one of %s, found \"%.60s\"", where,
                    known.text, type);
}

/* A downloaded model is a folder of its name with a config.json in it; any other file name is the
 * name itself. A bare config.json says no more than its architecture. */
static const char *name_of(struct hlm_arena *arena, const char *path, const char *model_type)
{
    static const char config[] = "config.json", suffix[] = ".json";
    const char *slash = strrchr(path, '/');
    const char *start = slash == NULL ? path : slash + 1, *end = path + strlen(path);
    if (strcmp(start, config) == 0) {
        end = start;
        while (end > path && end[-1] == '/') {
            end--;
        }
        start = end;
        while (start > path && start[-1] != '/') {
            start--;
        }
    } else if (end - start > (ptrdiff_t)strlen(suffix) &&
               strcmp(end - strlen(suffix), suffix) == 0) {
        end -= strlen(suffix);
    }
    const bool says_nothing = end == start || start[0] == '.' || start[0] == '-';
    return says_nothing ? model_type : hlm_arena_strndup(arena, start, (size_t)(end - start));
}

static enum hlm_status import_config(struct hlm_arena *arena, const char *path,
                                     const struct hlm_json_foreign *config,
                                     const struct hlm_model **out, struct hlm_err *err)
{
    const struct hlm_hf_architecture *architecture = NULL;
    HLM_TRY(find_architecture(arena, path, config, &architecture, err));
    struct hlm_model *model = hlm_arena_memdup(arena, &architecture->base, sizeof *model);
    const struct import import = {arena, path, architecture, config, model, err};
    for (const struct hlm_hf_key *key = architecture->keys; key->name != NULL; key++) {
        HLM_TRY(import_key(&import, key));
    }
    if (architecture->finish != NULL) {
        HLM_TRY(architecture->finish(model, path, err));
    }
    model->name = name_of(arena, path, architecture->model_type);
    hlm_model_complete(model);
    HLM_TRY(hlm_model_validate(model, path, err));
    *out = model;
    return HLM_OK;
}

enum hlm_status hlm_model_import_hf(struct hlm_arena *arena, const char *path, const char *text,
                                    size_t length, const struct hlm_model **out,
                                    struct hlm_err *err)
{
    struct hlm_json_foreign *config = NULL;
    HLM_TRY(hlm_json_foreign_parse(arena, path, text, length, &config, err));
    const enum hlm_status status = import_config(arena, path, config, out, err);
    hlm_json_foreign_free(config);
    return status;
}
