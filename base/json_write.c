#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_internal.h"
#include "base/rng.h"

/* cJSON refuses to read what is nested deeper. */
enum { MAX_DEPTH = 1000 };

/* ---- numbers and strings ---- */

/* "1e+20" and "1e-05" of printf are longer than need be. */
static void shorten_exponent(char *text)
{
    char *exponent = strchr(text, 'e');
    if (exponent == NULL) {
        return;
    }
    char *to = exponent + 1;
    const char *from = to;
    if (*from == '-') {
        to++;
    }
    from++;
    while (*from == '0') {
        from++;
    }
    memmove(to, from, strlen(from) + 1);
}

void hlm_json_format_double(double value, char out[32])
{
    HLM_ASSERT(isfinite(value));
    enum { TEXT_BYTES = 32 };
    /* 15 digits survive the way through a normal double, so fewer need no trial: %g drops zeros. */
    const int first = fabs(value) < DBL_MIN && value != 0 ? 1 : DBL_DIG;
    for (int digits = first; digits <= DBL_DECIMAL_DIG; digits++) {
        snprintf(out, TEXT_BYTES, "%.*g", digits, value);
        if (strtod(out, NULL) == value) {
            break;
        }
    }
    shorten_exponent(out);
}

void hlm_json_quote(struct hlm_text *text, const char *value, size_t length)
{
    static const char escaped[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    hlm_text_add(text, "\"", 1);
    size_t plain = 0; /* start of the run that needs no escape */
    for (size_t i = 0; i < length; i++) {
        const unsigned char byte = (unsigned char)value[i];
        if (byte >= 0x20 && byte != '"' && byte != '\\' && byte != 0x7F) {
            continue;
        }
        hlm_text_add(text, value + plain, i - plain);
        plain = i + 1;
        const char *found = byte == 0 ? NULL : strchr(escaped, byte);
        if (found != NULL) {
            hlm_text_printf(text, "\\%c", letters[found - escaped]);
        } else {
            hlm_text_printf(text, "\\u%04x", byte);
        }
    }
    hlm_text_add(text, value + plain, length - plain);
    hlm_text_add(text, "\"", 1);
}

/* ---- the writer ---- */

static void add_text(struct hlm_json_writer *writer, const char *text)
{
    hlm_text_add(&writer->text, text, strlen(text));
}

static void new_line(struct hlm_json_writer *writer)
{
    if (writer->compact || (writer->depth == 0 && writer->text.length == 0)) {
        return;
    }
    hlm_text_add(&writer->text, "\n", 1);
    for (int i = 0; i < writer->depth; i++) {
        hlm_text_add(&writer->text, "  ", 2);
    }
}

/* Before a key or an element: the comma and the new line; nothing between a key and its value. */
static void separate(struct hlm_json_writer *writer)
{
    if (writer->after_key) {
        writer->after_key = false;
        return;
    }
    if (!writer->first) {
        hlm_text_add(&writer->text, ",", 1);
    }
    writer->first = false;
    new_line(writer);
}

static void begin(struct hlm_json_writer *writer, const char *bracket)
{
    separate(writer);
    add_text(writer, bracket);
    writer->depth++;
    HLM_ASSERT(writer->depth <= MAX_DEPTH);
    writer->first = true;
}

static void end(struct hlm_json_writer *writer, const char *bracket)
{
    HLM_ASSERT(writer->depth > 0 && !writer->after_key);
    writer->depth--;
    if (!writer->first) {
        new_line(writer);
    }
    add_text(writer, bracket);
    writer->first = false;
}

void hlm_json_writer_init(struct hlm_json_writer *writer, struct hlm_arena *arena, bool compact)
{
    *writer = (struct hlm_json_writer){.first = true, .compact = compact};
    hlm_text_init(&writer->text, arena);
}

void hlm_json_begin_object(struct hlm_json_writer *writer)
{
    begin(writer, "{");
}

void hlm_json_end_object(struct hlm_json_writer *writer)
{
    end(writer, "}");
}

void hlm_json_begin_array(struct hlm_json_writer *writer)
{
    begin(writer, "[");
}

void hlm_json_end_array(struct hlm_json_writer *writer)
{
    end(writer, "]");
}

void hlm_json_key(struct hlm_json_writer *writer, const char *key)
{
    HLM_ASSERT(writer->depth > 0 && !writer->after_key);
    separate(writer);
    hlm_json_quote(&writer->text, key, strlen(key));
    add_text(writer, writer->compact ? ":" : ": ");
    writer->after_key = true;
}

static void write_null(struct hlm_json_writer *writer)
{
    separate(writer);
    add_text(writer, "null");
}

void hlm_json_string(struct hlm_json_writer *writer, const char *value)
{
    if (value == NULL) {
        write_null(writer);
        return;
    }
    separate(writer);
    hlm_json_quote(&writer->text, value, strlen(value));
}

void hlm_json_int64(struct hlm_json_writer *writer, int64_t value)
{
    separate(writer);
    hlm_text_printf(&writer->text, "%" PRId64, value);
}

void hlm_json_double(struct hlm_json_writer *writer, double value)
{
    char digits[32];
    hlm_json_format_double(value, digits);
    separate(writer);
    add_text(writer, digits);
}

void hlm_json_bool(struct hlm_json_writer *writer, bool value)
{
    separate(writer);
    add_text(writer, value ? "true" : "false");
}

/* ---- objects by their table ---- */

const void *hlm_json_at(const struct hlm_json_field *field, const void *object)
{
    return (const char *)object + field->offset;
}

int32_t hlm_json_count(const struct hlm_json_field *field, const void *object)
{
    int32_t count = 0;
    memcpy(&count, (const char *)object + field->count_offset, sizeof count);
    HLM_ASSERT(count >= 0);
    return count;
}

/* The pointer that a string, pointer or array field holds. */
static const void *held_pointer(const struct hlm_json_field *field, const void *object)
{
    const void *held = NULL;
    memcpy(&held, hlm_json_at(field, object), sizeof held);
    return held;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* 0 and -0 are told apart: they are written differently. */
static bool same_double(double a, double b)
{
    return a == b && signbit(a) == signbit(b);
}

static bool is_default(const struct hlm_json_field *field, const void *object);

static bool all_default(const struct hlm_json_table *table, const void *object)
{
    for (const struct hlm_json_field *field = table->fields; field->name != NULL; field++) {
        if (!is_default(field, object)) {
            return false;
        }
    }
    return true;
}

/* Whether a reader that finds the key absent would set the same value. */
static bool is_default(const struct hlm_json_field *field, const void *object)
{
    const void *at = hlm_json_at(field, object);
    switch (field->type) {
    case HLM_JSON_BOOL:
        return *(const bool *)at == (field->def != 0);
    case HLM_JSON_INT:
        return *(const int32_t *)at == (int32_t)field->def;
    case HLM_JSON_INT64:
        return *(const int64_t *)at == (int64_t)field->def;
    case HLM_JSON_DOUBLE:
        return same_double(*(const double *)at, field->def);
    case HLM_JSON_STRING:
        return same_text(held_pointer(field, object), field->def_text);
    case HLM_JSON_ENUM:
        return *(const int *)at == (int)field->def;
    case HLM_JSON_OBJECT:
        return all_default(field->table, at);
    case HLM_JSON_POINTER:
        return held_pointer(field, object) == NULL;
    case HLM_JSON_ARRAY:
    case HLM_JSON_INTS:
    case HLM_JSON_DOUBLES:
    case HLM_JSON_STRINGS:
        return hlm_json_count(field, object) == 0;
    }
    return false;
}

static bool in_range(const struct hlm_json_field *field, double value)
{
    const struct hlm_json_range range = hlm_json_range(field);
    return value >= range.min && value <= range.max;
}

/* Whether a reader accepts the default where it is written out. 0 for "not given" often is out of
 * range; what is optional in an object can be left out in its turn. */
static bool default_is_readable(const struct hlm_json_field *field)
{
    const bool required = (field->flags & HLM_FIELD_REQUIRED) != 0;
    switch (field->type) {
    case HLM_JSON_INT:
    case HLM_JSON_INT64:
    case HLM_JSON_DOUBLE:
        return in_range(field, field->def);
    case HLM_JSON_STRING:
        return !required || field->def_text != NULL;
    case HLM_JSON_OBJECT:
        for (const struct hlm_json_field *sub = field->table->fields; sub->name != NULL; sub++) {
            if ((sub->flags & HLM_FIELD_REQUIRED) != 0 && !default_is_readable(sub)) {
                return false;
            }
        }
        return true;
    case HLM_JSON_POINTER:
        return !required;
    case HLM_JSON_ARRAY:
    case HLM_JSON_INTS:
    case HLM_JSON_DOUBLES:
    case HLM_JSON_STRINGS:
        return in_range(field, 0);
    case HLM_JSON_BOOL:
    case HLM_JSON_ENUM:
        return true;
    }
    return true;
}

static bool is_left_out(const struct hlm_json_field *field, const void *object, bool without_meta)
{
    if (without_meta && (field->flags & HLM_FIELD_META) != 0) {
        return true;
    }
    const bool omit = (field->flags & HLM_FIELD_OMIT_DEFAULT) != 0 || !default_is_readable(field);
    return omit && (field->flags & HLM_FIELD_REQUIRED) == 0 && is_default(field, object);
}

static void write_object(struct hlm_json_writer *writer, const struct hlm_json_table *table,
                         const void *object, bool without_meta);

/* Numbers and texts stand in one line: a rank map of a thousand lines helps nobody. */
static void write_line(struct hlm_json_writer *writer, const struct hlm_json_field *field,
                       const void *object)
{
    const void *items = held_pointer(field, object);
    const bool compact = writer->compact;
    hlm_json_begin_array(writer);
    writer->compact = true;
    for (int32_t i = 0; i < hlm_json_count(field, object); i++) {
        if (i > 0) {
            add_text(writer, compact ? "," : ", ");
            writer->first = true; /* the separator is written */
        }
        if (field->type == HLM_JSON_INTS) {
            hlm_json_int64(writer, ((const int32_t *)items)[i]);
        } else if (field->type == HLM_JSON_DOUBLES) {
            hlm_json_double(writer, ((const double *)items)[i]);
        } else {
            hlm_json_string(writer, ((const char *const *)items)[i]);
        }
    }
    hlm_json_end_array(writer);
    writer->compact = compact;
}

static void write_array(struct hlm_json_writer *writer, const struct hlm_json_field *field,
                        const void *object, bool without_meta)
{
    const char *items = held_pointer(field, object);
    hlm_json_begin_array(writer);
    for (int32_t i = 0; i < hlm_json_count(field, object); i++) {
        write_object(writer, field->table, items + (size_t)i * field->table->struct_size,
                     without_meta);
    }
    hlm_json_end_array(writer);
}

static const char *enum_text(const struct hlm_json_field *field, int value)
{
    int num = 0;
    while (field->enums[num] != NULL) {
        num++;
    }
    HLM_ASSERT(value >= 0 && value < num);
    return field->enums[value];
}

static void write_int64(struct hlm_json_writer *writer, int64_t value)
{
    HLM_ASSERT(value <= (int64_t)HLM_JSON_MAX_INT && value >= -(int64_t)HLM_JSON_MAX_INT);
    hlm_json_int64(writer, value);
}

static void write_value(struct hlm_json_writer *writer, const struct hlm_json_field *field,
                        const void *object, bool without_meta)
{
    const void *at = hlm_json_at(field, object);
    switch (field->type) {
    case HLM_JSON_BOOL:
        hlm_json_bool(writer, *(const bool *)at);
        break;
    case HLM_JSON_INT:
        hlm_json_int64(writer, *(const int32_t *)at);
        break;
    case HLM_JSON_INT64:
        write_int64(writer, *(const int64_t *)at);
        break;
    case HLM_JSON_DOUBLE:
        hlm_json_double(writer, *(const double *)at);
        break;
    case HLM_JSON_STRING:
        hlm_json_string(writer, held_pointer(field, object));
        break;
    case HLM_JSON_ENUM:
        hlm_json_string(writer, enum_text(field, *(const int *)at));
        break;
    case HLM_JSON_OBJECT:
        write_object(writer, field->table, at, without_meta);
        break;
    case HLM_JSON_POINTER:
        if (held_pointer(field, object) == NULL) {
            write_null(writer);
        } else {
            write_object(writer, field->table, held_pointer(field, object), without_meta);
        }
        break;
    case HLM_JSON_ARRAY:
        write_array(writer, field, object, without_meta);
        break;
    case HLM_JSON_INTS:
    case HLM_JSON_DOUBLES:
    case HLM_JSON_STRINGS:
        write_line(writer, field, object);
        break;
    }
}

static void write_fields(struct hlm_json_writer *writer, const struct hlm_json_table *table,
                         const void *object, bool without_meta)
{
    for (const struct hlm_json_field *field = table->fields; field->name != NULL; field++) {
        if (!is_left_out(field, object, without_meta)) {
            hlm_json_key(writer, field->name);
            write_value(writer, field, object, without_meta);
        }
    }
}

static void write_object(struct hlm_json_writer *writer, const struct hlm_json_table *table,
                         const void *object, bool without_meta)
{
    hlm_json_begin_object(writer);
    write_fields(writer, table, object, without_meta);
    hlm_json_end_object(writer);
}

static struct hlm_text write_file(struct hlm_arena *arena, const struct hlm_json_table *table,
                                  const void *object, bool without_meta)
{
    struct hlm_json_writer writer;
    hlm_json_writer_init(&writer, arena, false);
    hlm_json_begin_object(&writer);
    hlm_json_key(&writer, "schema");
    hlm_json_string(&writer, hlm_arena_printf(arena, HLM_JSON_SCHEMA_PREFIX "%s", table->kind));
    hlm_json_key(&writer, "version");
    hlm_json_int64(&writer, HLM_JSON_VERSION);
    write_fields(&writer, table, object, without_meta);
    hlm_json_end_object(&writer);
    add_text(&writer, "\n");
    return writer.text;
}

const char *hlm_json_write(struct hlm_arena *arena, const struct hlm_json_table *table,
                           const void *object, bool without_meta)
{
    return write_file(arena, table, object, without_meta).text;
}

const char *hlm_json_digest(struct hlm_arena *arena, const struct hlm_json_table *table,
                            const void *object)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    const struct hlm_text text = write_file(arena, table, object, true);
    const uint64_t hash = hlm_hash(HLM_HASH_START, text.text, text.length);
    hlm_arena_rewind(arena, mark);
    return hlm_arena_printf(arena, "%016" PRIx64, hash);
}
