#include <math.h>
#include <string.h>

#include "base/json_internal.h"

enum { MAX_TABLES = 64 };

/* ---- what a field accepts ---- */

static bool has_range(const struct hlm_json_field *field)
{
    return field->min != 0 || field->max != 0;
}

struct hlm_json_range hlm_json_range(const struct hlm_json_field *field)
{
    struct hlm_json_range range = {-HUGE_VAL, HUGE_VAL};
    if (has_range(field)) {
        range.min = field->min;
        range.max = field->max < field->min ? HUGE_VAL : field->max;
    }
    if (field->type == HLM_JSON_INT) {
        range.min = fmax(range.min, INT32_MIN);
        range.max = fmin(range.max, INT32_MAX);
    } else if (field->type == HLM_JSON_INT64) {
        range.min = fmax(range.min, -HLM_JSON_MAX_INT);
        range.max = fmin(range.max, HLM_JSON_MAX_INT);
    }
    return range;
}

static void add_number(struct hlm_text *text, double value)
{
    char digits[32];
    hlm_json_format_double(value, digits);
    hlm_text_printf(text, "%s", digits);
}

static void describe_number(const struct hlm_json_field *field, struct hlm_text *text)
{
    const struct hlm_json_range range = hlm_json_range(field);
    const bool closed = isfinite(range.min) && isfinite(range.max);
    hlm_text_printf(text, "%s", field->type == HLM_JSON_DOUBLE ? "a number" : "a whole number");
    if (closed && has_range(field) && range.max == field->max) {
        hlm_text_printf(text, " in [");
        add_number(text, range.min);
        hlm_text_printf(text, ", ");
        add_number(text, range.max);
        hlm_text_printf(text, "]");
    } else if (has_range(field)) {
        hlm_text_printf(text, " of at least ");
        add_number(text, range.min);
    } else if (field->type == HLM_JSON_INT) {
        hlm_text_printf(text, " of 32 bits");
    } else if (field->type == HLM_JSON_INT64) {
        hlm_text_printf(text, " of at most 2^53");
    }
}

static void describe_array(const struct hlm_json_field *field, const char *of,
                           struct hlm_text *text)
{
    const struct hlm_json_range range = hlm_json_range(field);
    hlm_text_printf(text, "an array of ");
    if (has_range(field) && range.min == range.max) {
        hlm_text_printf(text, "%.0f ", range.min);
    } else if (has_range(field) && isfinite(range.max)) {
        hlm_text_printf(text, "%.0f to %.0f ", range.min, range.max);
    } else if (has_range(field)) {
        hlm_text_printf(text, "at least %.0f ", range.min);
    }
    hlm_text_printf(text, "%s", of);
}

static void describe_enum(const struct hlm_json_field *field, struct hlm_text *text)
{
    hlm_text_printf(text, "one of ");
    for (int i = 0; field->enums[i] != NULL; i++) {
        hlm_text_printf(text, "%s\"%s\"", i > 0 ? ", " : "", field->enums[i]);
    }
}

void hlm_json_describe(const struct hlm_json_field *field, struct hlm_text *text)
{
    switch (field->type) {
    case HLM_JSON_BOOL:
        hlm_text_printf(text, "true or false");
        break;
    case HLM_JSON_INT:
    case HLM_JSON_INT64:
    case HLM_JSON_DOUBLE:
        describe_number(field, text);
        break;
    case HLM_JSON_STRING:
        hlm_text_printf(text, "a string");
        break;
    case HLM_JSON_ENUM:
        describe_enum(field, text);
        break;
    case HLM_JSON_OBJECT:
    case HLM_JSON_POINTER:
        hlm_text_printf(text, "an object");
        break;
    case HLM_JSON_ARRAY:
        describe_array(field, "objects", text);
        break;
    case HLM_JSON_INTS:
        describe_array(field, "whole numbers", text);
        break;
    case HLM_JSON_DOUBLES:
        describe_array(field, "numbers", text);
        break;
    case HLM_JSON_STRINGS:
        describe_array(field, "strings", text);
        break;
    }
}

/* ---- documentation ---- */

/* The tables met so far; each is documented once, in the order in which fields refer to them. */
struct tables {
    const struct hlm_json_table *items[MAX_TABLES];
    int num;
};

static void add_table(struct tables *tables, const struct hlm_json_table *table)
{
    for (int i = 0; i < tables->num; i++) {
        if (tables->items[i] == table) {
            return;
        }
    }
    HLM_ASSERT(tables->num < MAX_TABLES);
    tables->items[tables->num++] = table;
}

static void document_default(const struct hlm_json_field *field, struct hlm_text *text)
{
    if ((field->flags & HLM_FIELD_REQUIRED) != 0) {
        hlm_text_printf(text, "required");
        return;
    }
    switch (field->type) {
    case HLM_JSON_BOOL:
        hlm_text_printf(text, "%s", field->def != 0 ? "true" : "false");
        break;
    case HLM_JSON_INT:
    case HLM_JSON_INT64:
    case HLM_JSON_DOUBLE:
        add_number(text, field->def);
        break;
    case HLM_JSON_STRING:
        if (field->def_text == NULL) {
            hlm_text_printf(text, "none");
        } else {
            hlm_text_printf(text, "\"%s\"", field->def_text);
        }
        break;
    case HLM_JSON_ENUM:
        hlm_text_printf(text, "\"%s\"", field->enums[(int)field->def]);
        break;
    case HLM_JSON_OBJECT:
        hlm_text_printf(text, "its defaults");
        break;
    case HLM_JSON_POINTER:
        hlm_text_printf(text, "none");
        break;
    case HLM_JSON_ARRAY:
    case HLM_JSON_INTS:
    case HLM_JSON_DOUBLES:
    case HLM_JSON_STRINGS:
        hlm_text_printf(text, "empty");
        break;
    }
}

static void document_field(const struct hlm_json_field *field, struct hlm_text *text)
{
    hlm_text_printf(text, "| `%s` | ", field->name);
    hlm_json_describe(field, text);
    if (field->table != NULL) {
        hlm_text_printf(text, ": [%s](#%s)", field->table->kind, field->table->kind);
    }
    hlm_text_printf(text, " | ");
    document_default(field, text);
    hlm_text_printf(text, " | %s%s |\n", field->doc == NULL ? "" : field->doc,
                    (field->flags & HLM_FIELD_META) != 0 ? " Not part of the digest." : "");
}

static void document_table(struct tables *tables, const struct hlm_json_table *table,
                           struct hlm_text *text)
{
    hlm_text_printf(text, "| key | value | default | meaning |\n|---|---|---|---|\n");
    for (const struct hlm_json_field *field = table->fields; field->name != NULL; field++) {
        document_field(field, text);
        if (field->table != NULL) {
            add_table(tables, field->table);
        }
    }
}

const char *hlm_json_document(struct hlm_arena *arena, const struct hlm_json_table *table)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    struct tables tables = {.num = 0};
    add_table(&tables, table);
    hlm_text_printf(&text,
                    "# %s%s, version %d\n\nA file of this kind starts with `\"schema\": \"%s%s\"` "
                    "and `\"version\": %d`. Other keys than these are errors.\n\n",
                    HLM_JSON_SCHEMA_PREFIX, table->kind, HLM_JSON_VERSION, HLM_JSON_SCHEMA_PREFIX,
                    table->kind, HLM_JSON_VERSION);
    for (int i = 0; i < tables.num; i++) {
        if (i > 0) {
            hlm_text_printf(&text, "\n## %s\n\n", tables.items[i]->kind);
        }
        document_table(&tables, tables.items[i], &text);
    }
    return text.text;
}
