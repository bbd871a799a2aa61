#include <math.h>
#include <string.h>

#include "base/json_internal.h"
#include "base/json_read.h"
#include "base/opt.h"

enum { MAX_FIELDS = 128, MAX_FOUND_CHARS = 60 };

/* ---- messages ---- */

static void add_place(struct hlm_text *text, const struct hlm_json_place *place)
{
    if (place->up == NULL) {
        hlm_text_add(text, "$", 1);
        return;
    }
    add_place(text, place->up);
    if (place->key != NULL) {
        hlm_text_printf(text, ".%s", place->key);
    } else {
        hlm_text_printf(text, "[%d]", place->index);
    }
}

static const char *place_text(const struct hlm_json_reader *reader,
                              const struct hlm_json_place *place)
{
    struct hlm_text text;
    hlm_text_init(&text, reader->arena);
    add_place(&text, place);
    return text.text;
}

/* A string of the input as messages show it: quoted, escaped, cut. */
static void add_quoted(struct hlm_text *text, const char *value)
{
    const size_t length = strlen(value);
    size_t shown = length;
    if (length > MAX_FOUND_CHARS) {
        shown = MAX_FOUND_CHARS;
        while (shown > 0 && ((unsigned char)value[shown] & 0xC0) == 0x80) {
            shown--; /* not in the middle of a character */
        }
    }
    hlm_json_quote(text, value, shown);
    if (shown < length) {
        hlm_text_add(text, "...", 3);
    }
}

static void add_found(struct hlm_text *text, const cJSON *item)
{
    char digits[32];
    if (cJSON_IsString(item)) {
        add_quoted(text, item->valuestring);
    } else if (cJSON_IsNumber(item) && isfinite(item->valuedouble)) {
        hlm_json_format_double(item->valuedouble, digits);
        hlm_text_add(text, digits, strlen(digits));
    } else {
        hlm_text_printf(text, "%s",
                        cJSON_IsNumber(item)  ? "a number too large for a double"
                        : cJSON_IsTrue(item)  ? "true"
                        : cJSON_IsFalse(item) ? "false"
                        : cJSON_IsNull(item)  ? "null"
                        : cJSON_IsArray(item) ? "an array"
                                              : "an object");
    }
}

enum hlm_status hlm_json_fail_found(const struct hlm_json_reader *reader,
                                    const struct hlm_json_place *place, const char *expected,
                                    const cJSON *item)
{
    struct hlm_text found;
    hlm_text_init(&found, reader->arena);
    add_found(&found, item);
    return hlm_fail(reader->err, HLM_INPUT, "%s: %s: expected %s, found %s", reader->name,
                    place_text(reader, place), expected, found.text);
}

enum hlm_status hlm_json_fail_field(const struct hlm_json_reader *reader,
                                    const struct hlm_json_place *place,
                                    const struct hlm_json_field *field, const cJSON *item)
{
    struct hlm_text expected;
    hlm_text_init(&expected, reader->arena);
    hlm_json_describe(field, &expected);
    return hlm_json_fail_found(reader, place, expected.text, item);
}

static enum hlm_status fail_length(const struct hlm_json_reader *reader,
                                   const struct hlm_json_place *place,
                                   const struct hlm_json_field *field, int num)
{
    struct hlm_text expected;
    hlm_text_init(&expected, reader->arena);
    hlm_json_describe(field, &expected);
    return hlm_fail(reader->err, HLM_INPUT, "%s: %s: expected %s, found %d", reader->name,
                    place_text(reader, place), expected.text, num);
}

static enum hlm_status fail_unknown(const struct hlm_json_reader *reader,
                                    const struct hlm_json_place *place,
                                    const struct hlm_json_table *table, const char *key)
{
    const char *names[MAX_FIELDS + 1] = {NULL};
    for (int i = 0; table->fields[i].name != NULL; i++) {
        names[i] = table->fields[i].name;
    }
    const char *nearest = hlm_opt_nearest(key, names);
    struct hlm_text found;
    hlm_text_init(&found, reader->arena);
    add_quoted(&found, key);
    if (nearest != NULL) {
        hlm_text_printf(&found, " (did you mean \"%s\"?)", nearest);
    }
    return hlm_fail(reader->err, HLM_INPUT, "%s: %s: unknown key %s", reader->name,
                    place_text(reader, place), found.text);
}

enum hlm_status hlm_json_fail_duplicate(const struct hlm_json_reader *reader,
                                        const struct hlm_json_place *place)
{
    return hlm_fail(reader->err, HLM_INPUT, "%s: %s: the key stands there more than once",
                    reader->name, place_text(reader, place));
}

/* ---- values ---- */

static void set_pointer(const struct hlm_json_field *field, void *object, const void *value)
{
    memcpy((char *)object + field->offset, &value, sizeof value);
}

static void set_array(const struct hlm_json_field *field, void *object, const void *items,
                      int32_t num)
{
    set_pointer(field, object, items);
    memcpy((char *)object + field->count_offset, &num, sizeof num);
}

static void set_number(const struct hlm_json_field *field, void *object, double value)
{
    void *at = (char *)object + field->offset;
    switch (field->type) {
    case HLM_JSON_BOOL:
        *(bool *)at = value != 0;
        break;
    case HLM_JSON_INT:
        *(int32_t *)at = (int32_t)value;
        break;
    case HLM_JSON_INT64:
        *(int64_t *)at = (int64_t)value;
        break;
    case HLM_JSON_ENUM:
        *(int *)at = (int)value;
        break;
    default:
        *(double *)at = value;
        break;
    }
}

static void set_defaults(const struct hlm_json_table *table, struct hlm_arena *arena, void *object);

static void set_default(const struct hlm_json_field *field, struct hlm_arena *arena, void *object)
{
    switch (field->type) {
    case HLM_JSON_BOOL:
    case HLM_JSON_INT:
    case HLM_JSON_INT64:
    case HLM_JSON_DOUBLE:
    case HLM_JSON_ENUM:
        set_number(field, object, field->def);
        break;
    case HLM_JSON_STRING:
        set_pointer(field, object, field->def_text);
        break;
    case HLM_JSON_OBJECT:
        set_defaults(field->table, arena, (char *)object + field->offset);
        break;
    case HLM_JSON_POINTER:
        set_pointer(field, object, NULL);
        break;
    case HLM_JSON_ARRAY:
    case HLM_JSON_INTS:
    case HLM_JSON_DOUBLES:
    case HLM_JSON_STRINGS:
        set_array(field, object, hlm_arena_alloc(arena, 0, 1), 0);
        break;
    }
}

static void set_defaults(const struct hlm_json_table *table, struct hlm_arena *arena, void *object)
{
    for (const struct hlm_json_field *field = table->fields; field->name != NULL; field++) {
        set_default(field, arena, object);
    }
}

bool hlm_json_number_fits(const struct hlm_json_field *field, const cJSON *item)
{
    if ((field->flags & HLM_FIELD_OR_BOOL) != 0 && cJSON_IsBool(item)) {
        return true;
    }
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble)) {
        return false;
    }
    const bool whole = field->type == HLM_JSON_INT || field->type == HLM_JSON_INT64 ||
                       field->type == HLM_JSON_INTS;
    const double value = item->valuedouble;
    const struct hlm_json_range range = hlm_json_range(field);
    return value >= range.min && value <= range.max && (!whole || value == floor(value));
}

static enum hlm_status read_enum(const struct hlm_json_reader *reader,
                                 const struct hlm_json_place *place,
                                 const struct hlm_json_field *field, const cJSON *item,
                                 void *object)
{
    for (int i = 0; cJSON_IsString(item) && field->enums[i] != NULL; i++) {
        if (strcmp(field->enums[i], item->valuestring) == 0) {
            set_number(field, object, i);
            return HLM_OK;
        }
    }
    return hlm_json_fail_field(reader, place, field, item);
}

static enum hlm_status read_pointer(const struct hlm_json_reader *reader,
                                    const struct hlm_json_place *place,
                                    const struct hlm_json_field *field, const cJSON *item,
                                    void *object)
{
    if (cJSON_IsNull(item) && (field->flags & HLM_FIELD_REQUIRED) == 0) {
        set_pointer(field, object, NULL);
        return HLM_OK;
    }
    void *target = hlm_arena_alloc(reader->arena, 1, field->table->struct_size);
    HLM_TRY(hlm_json_read_object(reader, place, field->table, item, target));
    set_pointer(field, object, target);
    return HLM_OK;
}

static enum hlm_status read_string(const struct hlm_json_reader *reader,
                                   const struct hlm_json_place *place,
                                   const struct hlm_json_field *field, const cJSON *item,
                                   void *object)
{
    if (cJSON_IsNull(item) && (field->flags & HLM_FIELD_REQUIRED) == 0) {
        set_pointer(field, object, NULL);
        return HLM_OK;
    }
    if (!cJSON_IsString(item)) {
        return hlm_json_fail_field(reader, place, field, item);
    }
    set_pointer(field, object, hlm_arena_strdup(reader->arena, item->valuestring));
    return HLM_OK;
}

/* ---- arrays ---- */

static size_t element_size(const struct hlm_json_field *field)
{
    switch (field->type) {
    case HLM_JSON_INTS:
        return sizeof(int32_t);
    case HLM_JSON_DOUBLES:
        return sizeof(double);
    case HLM_JSON_STRINGS:
        return sizeof(const char *);
    default:
        return field->table->struct_size;
    }
}

static enum hlm_status read_element(const struct hlm_json_reader *reader,
                                    const struct hlm_json_place *place,
                                    const struct hlm_json_field *field, const cJSON *item,
                                    void *element)
{
    if (field->type == HLM_JSON_ARRAY) {
        return hlm_json_read_object(reader, place, field->table, item, element);
    }
    if (field->type == HLM_JSON_STRINGS) {
        if (!cJSON_IsString(item)) {
            return hlm_json_fail_found(reader, place, "a string", item);
        }
        *(const char **)element = hlm_arena_strdup(reader->arena, item->valuestring);
        return HLM_OK;
    }
    /* The range of the field is that of the length; elements are only limited by their C type. */
    const bool whole = field->type == HLM_JSON_INTS;
    const struct hlm_json_field number = {.type = whole ? HLM_JSON_INT : HLM_JSON_DOUBLE};
    if (!hlm_json_number_fits(&number, item)) {
        return hlm_json_fail_field(reader, place, &number, item);
    }
    set_number(&number, element, item->valuedouble);
    return HLM_OK;
}

static enum hlm_status read_array(const struct hlm_json_reader *reader,
                                  const struct hlm_json_place *place,
                                  const struct hlm_json_field *field, const cJSON *item,
                                  void *object)
{
    if (cJSON_IsString(item) && (field->flags & HLM_FIELD_OR_ONE) != 0) {
        const char **one = HLM_ARENA_NEW(reader->arena, const char *);
        *one = hlm_arena_strdup(reader->arena, item->valuestring);
        set_array(field, object, one, 1);
        return HLM_OK;
    }
    if (!cJSON_IsArray(item)) {
        return hlm_json_fail_field(reader, place, field, item);
    }
    const int num = cJSON_GetArraySize(item);
    const struct hlm_json_range range = hlm_json_range(field);
    if (num < range.min || num > range.max) {
        return fail_length(reader, place, field, num);
    }
    const size_t size = element_size(field);
    char *elements = hlm_arena_alloc(reader->arena, (size_t)num, size);
    struct hlm_json_place at = {.up = place};
    for (const cJSON *child = item->child; child != NULL; child = child->next, at.index++) {
        HLM_TRY(read_element(reader, &at, field, child, elements + (size_t)at.index * size));
    }
    set_array(field, object, elements, num);
    return HLM_OK;
}

/* ---- objects ---- */

static enum hlm_status read_value(const struct hlm_json_reader *reader,
                                  const struct hlm_json_place *place,
                                  const struct hlm_json_field *field, const cJSON *item,
                                  void *object)
{
    if (cJSON_IsNull(item) && (field->flags & HLM_FIELD_NULLABLE) != 0) {
        set_default(field, reader->arena, object);
        return HLM_OK;
    }
    switch (field->type) {
    case HLM_JSON_BOOL:
        if (!cJSON_IsBool(item)) {
            return hlm_json_fail_field(reader, place, field, item);
        }
        set_number(field, object, cJSON_IsTrue(item));
        return HLM_OK;
    case HLM_JSON_INT:
    case HLM_JSON_INT64:
    case HLM_JSON_DOUBLE:
        if (!hlm_json_number_fits(field, item)) {
            return hlm_json_fail_field(reader, place, field, item);
        }
        set_number(field, object,
                   cJSON_IsBool(item) ? (double)cJSON_IsTrue(item) : item->valuedouble);
        return HLM_OK;
    case HLM_JSON_STRING:
        return read_string(reader, place, field, item, object);
    case HLM_JSON_ENUM:
        return read_enum(reader, place, field, item, object);
    case HLM_JSON_OBJECT:
        return hlm_json_read_object(reader, place, field->table, item,
                                    (char *)object + field->offset);
    case HLM_JSON_POINTER:
        return read_pointer(reader, place, field, item, object);
    case HLM_JSON_ARRAY:
    case HLM_JSON_INTS:
    case HLM_JSON_DOUBLES:
    case HLM_JSON_STRINGS:
        return read_array(reader, place, field, item, object);
    }
    return HLM_OK;
}

static int find_field(const struct hlm_json_table *table, const char *name)
{
    for (int i = 0; table->fields[i].name != NULL; i++) {
        HLM_ASSERT(i < MAX_FIELDS);
        if (strcmp(table->fields[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

/* What a key that the object lacks means: its default, or an error. */
static enum hlm_status read_absent(const struct hlm_json_reader *reader,
                                   const struct hlm_json_place *place,
                                   const struct hlm_json_table *table, const bool *seen,
                                   void *object)
{
    for (int i = 0; table->fields[i].name != NULL; i++) {
        const struct hlm_json_field *field = &table->fields[i];
        if (seen[i] || strcmp(field->name, HLM_JSON_OTHER_KEYS) == 0) {
            continue;
        }
        if ((field->flags & HLM_FIELD_REQUIRED) != 0) {
            struct hlm_text expected;
            hlm_text_init(&expected, reader->arena);
            hlm_json_describe(field, &expected);
            return hlm_fail(reader->err, HLM_INPUT, "%s: %s: the key \"%s\" is missing (%s)",
                            reader->name, place_text(reader, place), field->name, expected.text);
        }
        set_default(field, reader->arena, object);
    }
    return HLM_OK;
}

static bool is_header_key(const struct hlm_json_place *place, const char *key)
{
    return place->up == NULL && (strcmp(key, "schema") == 0 || strcmp(key, "version") == 0);
}

enum hlm_status hlm_json_read_object(const struct hlm_json_reader *reader,
                                     const struct hlm_json_place *place,
                                     const struct hlm_json_table *table, const cJSON *item,
                                     void *object)
{
    if (!cJSON_IsObject(item)) {
        return hlm_json_fail_found(reader, place, "an object", item);
    }
    bool seen[MAX_FIELDS] = {false};
    for (const cJSON *child = item->child; child != NULL; child = child->next) {
        const int i = find_field(table, child->string);
        if (i < 0 &&
            (is_header_key(place, child->string) || find_field(table, HLM_JSON_OTHER_KEYS) >= 0)) {
            continue;
        }
        if (i < 0) {
            return fail_unknown(reader, place, table, child->string);
        }
        const struct hlm_json_place at = {.up = place, .key = table->fields[i].name};
        if (seen[i]) {
            return hlm_json_fail_duplicate(reader, &at);
        }
        seen[i] = true;
        HLM_TRY(read_value(reader, &at, &table->fields[i], child, object));
    }
    return read_absent(reader, place, table, seen, object);
}
