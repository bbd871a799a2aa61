#include "base/json.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json_internal.h"
#include "base/json_read.h"

enum { MAX_FILE_BYTES = 1 << 30 };

/* ---- files ---- */

/* The only child with exactly this key, NULL when there is none (cJSON's own look-up takes the
 * first of several). */
static enum hlm_status find_child(const struct hlm_json_reader *reader, const cJSON *object,
                                  const char *key, const cJSON **out)
{
    static const struct hlm_json_place root;
    const cJSON *found = NULL;
    for (const cJSON *child = object->child; child != NULL; child = child->next) {
        if (strcmp(child->string, key) != 0) {
            continue;
        }
        if (found != NULL) {
            const struct hlm_json_place at = {.up = &root, .key = key};
            return hlm_json_fail_duplicate(reader, &at);
        }
        found = child;
    }
    *out = found;
    return HLM_OK;
}

static enum hlm_status check_header(const struct hlm_json_reader *reader,
                                    const struct hlm_json_place *root, const char *kind,
                                    const cJSON *item)
{
    if (!cJSON_IsObject(item)) {
        return hlm_json_fail_found(reader, root, "an object", item);
    }
    const cJSON *schema = NULL, *version = NULL;
    HLM_TRY(find_child(reader, item, "schema", &schema));
    HLM_TRY(find_child(reader, item, "version", &version));
    const char *expected =
        hlm_arena_printf(reader->arena, "\"" HLM_JSON_SCHEMA_PREFIX "%s\"", kind);
    if (schema == NULL || version == NULL) {
        return hlm_fail(reader->err, HLM_INPUT, "%s: $: the key \"%s\" is missing (%s)",
                        reader->name, schema == NULL ? "schema" : "version",
                        schema == NULL ? expected : "1");
    }
    const size_t prefix = sizeof HLM_JSON_SCHEMA_PREFIX - 1;
    const char *value = cJSON_GetStringValue(schema);
    if (value == NULL || strncmp(value, HLM_JSON_SCHEMA_PREFIX, prefix) != 0 ||
        strcmp(value + prefix, kind) != 0) {
        const struct hlm_json_place at = {.up = root, .key = "schema"};
        return hlm_json_fail_found(reader, &at, expected, schema);
    }
    if (!cJSON_IsNumber(version) || version->valuedouble != HLM_JSON_VERSION) {
        const struct hlm_json_place at = {.up = root, .key = "version"};
        return hlm_json_fail_found(reader, &at, "1", version);
    }
    return HLM_OK;
}

/* The tree of the only JSON value that the text holds; the caller deletes it. */
static enum hlm_status parse(struct hlm_arena *arena, const char *name, const char *text,
                             size_t length, bool exact_ints, cJSON **out, struct hlm_err *err)
{
    HLM_TRY(hlm_json_scan(name, text, length, exact_ints, err));
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    /* cJSON looks a few bytes ahead without asking for the end: it gets a terminated copy. */
    const char *copy = hlm_arena_strndup(arena, text, length);
    const char *end = copy;
    cJSON *root = cJSON_ParseWithLengthOpts(copy, length + 1, &end, 0);
    size_t offset = (size_t)(end - copy);
    const bool parsed = root != NULL;
    if (parsed) {
        offset += strspn(end, " \t\r\n");
    }
    hlm_arena_rewind(arena, mark);
    if (!parsed || offset < length) {
        cJSON_Delete(root);
        return hlm_json_fail_in_text(err, name, text, offset < length ? offset : length,
                                     parsed             ? "text after the end of the JSON value"
                                     : offset >= length ? "the JSON text ends too early"
                                                        : "not valid JSON");
    }
    *out = root;
    return HLM_OK;
}

enum hlm_status hlm_json_read_text(struct hlm_arena *arena, const char *name, const char *text,
                                   size_t length, const struct hlm_json_table *table, void *out,
                                   struct hlm_err *err)
{
    cJSON *root = NULL;
    HLM_TRY(parse(arena, name, text, length, true, &root, err));
    const struct hlm_json_reader reader = {arena, name, err};
    const struct hlm_json_place at = {.up = NULL};
    void *object = hlm_arena_alloc(arena, 1, table->struct_size);
    enum hlm_status status = check_header(&reader, &at, table->kind, root);
    if (status == HLM_OK) {
        status = hlm_json_read_object(&reader, &at, table, root, object);
    }
    if (status == HLM_OK) {
        memcpy(out, object, table->struct_size);
    }
    cJSON_Delete(root);
    return status;
}

enum hlm_status hlm_json_read_file(struct hlm_arena *arena, const char *path,
                                   const struct hlm_json_table *table, void *out,
                                   struct hlm_err *err)
{
    const char *text = NULL;
    size_t length = 0;
    HLM_TRY(hlm_file_read(arena, path, MAX_FILE_BYTES, &text, &length, err));
    return hlm_json_read_text(arena, strcmp(path, "-") == 0 ? "stdin" : path, text, length, table,
                              out, err);
}

static enum hlm_status read_list(const struct hlm_json_reader *reader, const cJSON *root,
                                 const struct hlm_json_table *table, struct hlm_json_list *out)
{
    const struct hlm_json_place top = {.up = NULL};
    if (!cJSON_IsArray(root)) {
        return hlm_json_fail_found(reader, &top, "an array", root);
    }
    const int num = cJSON_GetArraySize(root);
    char *objects = hlm_arena_alloc(reader->arena, (size_t)num, table->struct_size);
    const char **errors = HLM_ARENA_ARRAY(reader->arena, const char *, num);
    struct hlm_json_place at = {.up = &top};
    for (const cJSON *child = root->child; child != NULL; child = child->next, at.index++) {
        struct hlm_err own = {.status = HLM_OK};
        const struct hlm_json_reader element = {reader->arena, reader->name, &own};
        if (hlm_json_read_object(&element, &at, table, child,
                                 objects + (size_t)at.index * table->struct_size) != HLM_OK) {
            errors[at.index] = hlm_arena_strdup(reader->arena, own.text);
        }
    }
    *out = (struct hlm_json_list){objects, errors, num};
    return HLM_OK;
}

enum hlm_status hlm_json_read_list(struct hlm_arena *arena, const char *name, const char *text,
                                   size_t length, const struct hlm_json_table *table,
                                   struct hlm_json_list *out, struct hlm_err *err)
{
    cJSON *root = NULL;
    HLM_TRY(parse(arena, name, text, length, false, &root, err));
    const struct hlm_json_reader reader = {arena, name, err};
    const enum hlm_status status = read_list(&reader, root, table, out);
    cJSON_Delete(root);
    return status;
}

enum hlm_status hlm_json_peek_kind(struct hlm_arena *arena, const char *name, const char *text,
                                   size_t length, const char **out_kind, struct hlm_err *err)
{
    cJSON *root = NULL;
    HLM_TRY(parse(arena, name, text, length, false, &root, err));
    const size_t prefix = sizeof HLM_JSON_SCHEMA_PREFIX - 1;
    const cJSON *schema =
        cJSON_IsObject(root) ? cJSON_GetObjectItemCaseSensitive(root, "schema") : NULL;
    const bool ours =
        cJSON_IsString(schema) && strncmp(schema->valuestring, HLM_JSON_SCHEMA_PREFIX, prefix) == 0;
    *out_kind = ours ? hlm_arena_strdup(arena, schema->valuestring + prefix) : NULL;
    cJSON_Delete(root);
    return HLM_OK;
}

/* ---- foreign files ---- */

struct hlm_json_foreign {
    struct hlm_arena *arena;
    const char *name;
    cJSON *root;
    struct hlm_json_place at;
    bool is_part; /* of another one, which owns the tree */
};

enum hlm_status hlm_json_foreign_parse(struct hlm_arena *arena, const char *name, const char *text,
                                       size_t length, struct hlm_json_foreign **out,
                                       struct hlm_err *err)
{
    cJSON *root = NULL;
    HLM_TRY(parse(arena, name, text, length, false, &root, err));
    if (!cJSON_IsObject(root)) {
        const struct hlm_json_reader reader = {arena, name, err};
        const struct hlm_json_place at = {.up = NULL};
        const enum hlm_status status = hlm_json_fail_found(&reader, &at, "an object", root);
        cJSON_Delete(root);
        return status;
    }
    struct hlm_json_foreign *foreign = HLM_ARENA_NEW(arena, struct hlm_json_foreign);
    *foreign = (struct hlm_json_foreign){
        .arena = arena, .name = hlm_arena_strdup(arena, name), .root = root};
    *out = foreign;
    return HLM_OK;
}

void hlm_json_foreign_free(struct hlm_json_foreign *foreign)
{
    if (foreign != NULL && !foreign->is_part) {
        cJSON_Delete(foreign->root);
        foreign->root = NULL;
    }
}

/* Looks `key` up and checks it by the field; *out stays NULL when it is absent or null. */
static enum hlm_status find_foreign(const struct hlm_json_foreign *foreign, const char *key,
                                    const struct hlm_json_field *field, const cJSON **out,
                                    struct hlm_err *err)
{
    const struct hlm_json_reader reader = {foreign->arena, foreign->name, err};
    const struct hlm_json_place at = {.up = &foreign->at, .key = key};
    const cJSON *item = NULL;
    HLM_TRY(find_child(&reader, foreign->root, key, &item));
    if (item == NULL || cJSON_IsNull(item)) {
        return HLM_OK;
    }
    const bool fits = field->type == HLM_JSON_STRING ? cJSON_IsString(item)
                      : field->type == HLM_JSON_BOOL ? cJSON_IsBool(item)
                                                     : hlm_json_number_fits(field, item);
    if (!fits) {
        return hlm_json_fail_field(&reader, &at, field, item);
    }
    *out = item;
    return HLM_OK;
}

enum hlm_status hlm_json_foreign_int64(const struct hlm_json_foreign *foreign, const char *key,
                                       int64_t min, int64_t max, int64_t *out, bool *out_found,
                                       struct hlm_err *err)
{
    /* Foreign text is not held to exact whole numbers, so 2^53 may stand for 2^53 + 1. */
    const double limit = HLM_JSON_MAX_INT - 1;
    const struct hlm_json_field field = {
        .type = HLM_JSON_INT64, .min = fmax((double)min, -limit), .max = fmin((double)max, limit)};
    const cJSON *item = NULL;
    HLM_TRY(find_foreign(foreign, key, &field, &item, err));
    *out_found = item != NULL;
    if (item != NULL) {
        *out = (int64_t)item->valuedouble;
    }
    return HLM_OK;
}

enum hlm_status hlm_json_foreign_double(const struct hlm_json_foreign *foreign, const char *key,
                                        double *out, bool *out_found, struct hlm_err *err)
{
    const struct hlm_json_field field = {.type = HLM_JSON_DOUBLE};
    const cJSON *item = NULL;
    HLM_TRY(find_foreign(foreign, key, &field, &item, err));
    *out_found = item != NULL;
    if (item != NULL) {
        *out = item->valuedouble;
    }
    return HLM_OK;
}

enum hlm_status hlm_json_foreign_bool(const struct hlm_json_foreign *foreign, const char *key,
                                      bool *out, bool *out_found, struct hlm_err *err)
{
    const struct hlm_json_field field = {.type = HLM_JSON_BOOL};
    const cJSON *item = NULL;
    HLM_TRY(find_foreign(foreign, key, &field, &item, err));
    *out_found = item != NULL;
    if (item != NULL) {
        *out = cJSON_IsTrue(item);
    }
    return HLM_OK;
}

enum hlm_status hlm_json_foreign_string(const struct hlm_json_foreign *foreign, const char *key,
                                        const char **out, bool *out_found, struct hlm_err *err)
{
    const struct hlm_json_field field = {.type = HLM_JSON_STRING};
    const cJSON *item = NULL;
    HLM_TRY(find_foreign(foreign, key, &field, &item, err));
    *out_found = item != NULL;
    if (item != NULL) {
        *out = hlm_arena_strdup(foreign->arena, item->valuestring);
    }
    return HLM_OK;
}

bool hlm_json_foreign_has(const struct hlm_json_foreign *foreign, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(foreign->root, key) != NULL;
}

/* Like find_foreign for a key whose value has members. */
static enum hlm_status find_foreign_members(const struct hlm_json_foreign *foreign, const char *key,
                                            bool array_too, cJSON **out, struct hlm_err *err)
{
    const struct hlm_json_reader reader = {foreign->arena, foreign->name, err};
    const struct hlm_json_place at = {.up = &foreign->at, .key = key};
    const cJSON *found = NULL;
    HLM_TRY(find_child(&reader, foreign->root, key, &found));
    if (found == NULL || cJSON_IsNull(found)) {
        *out = NULL;
        return HLM_OK;
    }
    if (!cJSON_IsObject(found) && !(array_too && cJSON_IsArray(found))) {
        return hlm_json_fail_found(&reader, &at, array_too ? "an array or an object" : "an object",
                                   found);
    }
    *out = cJSON_GetObjectItemCaseSensitive(foreign->root, key);
    return HLM_OK;
}

enum hlm_status hlm_json_foreign_length(const struct hlm_json_foreign *foreign, const char *key,
                                        int64_t *out, bool *out_found, struct hlm_err *err)
{
    cJSON *item = NULL;
    HLM_TRY(find_foreign_members(foreign, key, true, &item, err));
    *out_found = item != NULL;
    if (item != NULL) {
        *out = cJSON_GetArraySize(item);
    }
    return HLM_OK;
}

enum hlm_status hlm_json_foreign_object(const struct hlm_json_foreign *foreign, const char *key,
                                        struct hlm_json_foreign **out, struct hlm_err *err)
{
    cJSON *item = NULL;
    HLM_TRY(find_foreign_members(foreign, key, false, &item, err));
    if (item == NULL) {
        *out = NULL;
        return HLM_OK;
    }
    struct hlm_json_foreign *part = HLM_ARENA_NEW(foreign->arena, struct hlm_json_foreign);
    *part = (struct hlm_json_foreign){
        .arena = foreign->arena,
        .name = foreign->name,
        .root = item,
        .at = {.up = &foreign->at, .key = hlm_arena_strdup(foreign->arena, key)},
        .is_part = true,
    };
    *out = part;
    return HLM_OK;
}
