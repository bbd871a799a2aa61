/* json: JSON files as tables of fields.
 *
 * A file kind is one `struct hlm_json_table`: its rows say each key, type, range, default and
 * meaning. The same table reads, writes, validates and documents the kind, so these can't drift
 * apart. Reading is strict: unknown keys, duplicate keys, missing required keys, trailing text,
 * numbers that are not finite, not whole where a whole number is expected, or out of range are
 * errors that name the file and the JSON path ("gpt.json: $.moe.top_k: expected a whole number in
 * [1, 1024], found 0"). Writing is canonical: table order, two spaces of indentation, doubles in
 * the shortest form that reads back to the same bits. Equal objects give equal bytes.
 *
 * A top-level file starts with "schema": "hlmplan.<kind>", "version": 1; the table functions for
 * files add and check these two keys. cJSON parses (its pitfalls are handled here: case-insensitive
 * look-up, duplicate keys, trailing text, 1e999, saturating integers, inexact printing); no other
 * file of the project may include cJSON.
 */
#ifndef HLM_BASE_JSON_H
#define HLM_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

enum hlm_json_type {
    HLM_JSON_BOOL,    /* bool */
    HLM_JSON_INT,     /* int32_t */
    HLM_JSON_INT64,   /* int64_t, |value| <= 2^53 */
    HLM_JSON_DOUBLE,  /* double, finite */
    HLM_JSON_STRING,  /* const char * */
    HLM_JSON_ENUM,    /* int (an enum), text by `enums` */
    HLM_JSON_OBJECT,  /* embedded struct, table by `table` */
    HLM_JSON_POINTER, /* const struct *, NULL when absent or null; table by `table` */
    HLM_JSON_ARRAY, /* `const struct X *` plus an int32_t count at `count_offset`; table by `table`
                     */
    HLM_JSON_INTS,  /* const int32_t * plus count */
    HLM_JSON_DOUBLES, /* const double * plus count */
    HLM_JSON_STRINGS, /* const char *const * plus count */
};

struct hlm_json_table;

enum {
    HLM_FIELD_REQUIRED = 1,
    HLM_FIELD_META = 2, /* left out of digests: what varies between equal runs */
    HLM_FIELD_OMIT_DEFAULT =
        4, /* not written when it equals its default (absent object, empty array, or `def`) */
    HLM_FIELD_NULLABLE = 8, /* null stands for the default */
    HLM_FIELD_OR_BOOL = 16, /* a number for which true and false stand too, as 1 and 0 */
    HLM_FIELD_OR_ONE = 32   /* an array of strings for which one string may stand */
};

/* A row of this name lets keys without a row of their own by: for files that others write. */
#define HLM_JSON_OTHER_KEYS "*"

struct hlm_json_field {
    const char *name;
    enum hlm_json_type type;
    size_t offset;
    unsigned flags;
    double min,
        max;    /* inclusive range of numbers and of array lengths; min == max == 0: no limit */
    double def; /* default of an optional number, bool or enum */
    const char *const *enums;           /* HLM_JSON_ENUM: text of each value, ends with NULL */
    const struct hlm_json_table *table; /* OBJECT, POINTER, ARRAY */
    size_t count_offset;                /* arrays */
    const char *doc;                    /* one sentence, with the unit */
    const char *def_text;               /* default of an optional string (NULL: NULL) */
};

struct hlm_json_table {
    const char
        *kind; /* "model", "device", ...; for a sub-object the name used in the documentation */
    size_t struct_size;
    const struct hlm_json_field *fields; /* ends with a row whose name is NULL */
};

/* Reads a whole file or a text (name: how messages call it) of a kind into *out. Everything that
 * out refers to is in the arena. HLM_INPUT with file and JSON path on any deviation. */
HLM_MUST_CHECK enum hlm_status hlm_json_read_file(struct hlm_arena *arena, const char *path,
                                                  const struct hlm_json_table *table, void *out,
                                                  struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_json_read_text(struct hlm_arena *arena, const char *name,
                                                  const char *text, size_t length,
                                                  const struct hlm_json_table *table, void *out,
                                                  struct hlm_err *err);

/* A file that others write: an array of objects of a table, without schema and version. One element
 * that deviates does not spoil the file: errors[i] is then its message (else NULL), and its object
 * holds what stands in front of the deviation. objects: [num] structs of the table's size.
 * HLM_INPUT: no JSON array. */
struct hlm_json_list {
    const void *objects;
    const char *const *errors;
    int32_t num;
};
HLM_MUST_CHECK enum hlm_status hlm_json_read_list(struct hlm_arena *arena, const char *name,
                                                  const char *text, size_t length,
                                                  const struct hlm_json_table *table,
                                                  struct hlm_json_list *out, struct hlm_err *err);

/* What is the value of "schema" in this text: the kind after "hlmplan.", or NULL where the text is
 * not a JSON object or has no such key (for telling a model file from a Hugging Face config).
 * HLM_INPUT when it is no JSON at all. */
HLM_MUST_CHECK enum hlm_status hlm_json_peek_kind(struct hlm_arena *arena, const char *name,
                                                  const char *text, size_t length,
                                                  const char **out_kind, struct hlm_err *err);

/* Canonical text of an object, ending in a newline. without_meta leaves out HLM_FIELD_META fields.
 */
const char *hlm_json_write(struct hlm_arena *arena, const struct hlm_json_table *table,
                           const void *object, bool without_meta);

/* 16 hex digits of the FNV-1a 64 hash of the canonical text without meta fields. */
const char *hlm_json_digest(struct hlm_arena *arena, const struct hlm_json_table *table,
                            const void *object);

/* Markdown documentation of a kind and its sub-objects (docs/schema-<kind>.md). */
const char *hlm_json_document(struct hlm_arena *arena, const struct hlm_json_table *table);

/* --- foreign files (Hugging Face config.json): look-ups by exact key in one object --- */
struct hlm_json_foreign;
HLM_MUST_CHECK enum hlm_status hlm_json_foreign_parse(struct hlm_arena *arena, const char *name,
                                                      const char *text, size_t length,
                                                      struct hlm_json_foreign **out,
                                                      struct hlm_err *err);
void hlm_json_foreign_free(struct hlm_json_foreign *foreign); /* NULL accepted */
/* Each sets *out when the key is there (and not null), and says so in *out_found; absent or null
 * leaves *out alone. A value of another type, or out of [min, max], is HLM_INPUT. */
HLM_MUST_CHECK enum hlm_status hlm_json_foreign_int64(const struct hlm_json_foreign *foreign,
                                                      const char *key, int64_t min, int64_t max,
                                                      int64_t *out, bool *out_found,
                                                      struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_json_foreign_double(const struct hlm_json_foreign *foreign,
                                                       const char *key, double *out,
                                                       bool *out_found, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_json_foreign_bool(const struct hlm_json_foreign *foreign,
                                                     const char *key, bool *out, bool *out_found,
                                                     struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_json_foreign_string(const struct hlm_json_foreign *foreign,
                                                       const char *key, const char **out,
                                                       bool *out_found, struct hlm_err *err);
/* Whether the key is there, null included: what "absent or null leaves *out alone" can't tell
 * apart. */
bool hlm_json_foreign_has(const struct hlm_json_foreign *foreign, const char *key);
/* Number of members of the array or object behind a key; another type is HLM_INPUT. */
HLM_MUST_CHECK enum hlm_status hlm_json_foreign_length(const struct hlm_json_foreign *foreign,
                                                       const char *key, int64_t *out,
                                                       bool *out_found, struct hlm_err *err);
/* The object behind a key, as part of `foreign` and as long-lived (freeing it does nothing); *out
 * is NULL when the key is absent or null. Another type is HLM_INPUT. */
HLM_MUST_CHECK enum hlm_status hlm_json_foreign_object(const struct hlm_json_foreign *foreign,
                                                       const char *key,
                                                       struct hlm_json_foreign **out,
                                                       struct hlm_err *err);

/* --- a writer for JSON without a table (Chrome traces, lists) --- */
struct hlm_json_writer {
    struct hlm_text text;
    int depth;
    bool first, after_key, compact; /* compact: no newlines */
};
void hlm_json_writer_init(struct hlm_json_writer *writer, struct hlm_arena *arena, bool compact);
void hlm_json_begin_object(struct hlm_json_writer *writer);
void hlm_json_end_object(struct hlm_json_writer *writer);
void hlm_json_begin_array(struct hlm_json_writer *writer);
void hlm_json_end_array(struct hlm_json_writer *writer);
void hlm_json_key(struct hlm_json_writer *writer, const char *key);
void hlm_json_string(struct hlm_json_writer *writer, const char *value); /* NULL: null */
void hlm_json_int64(struct hlm_json_writer *writer, int64_t value);
void hlm_json_double(struct hlm_json_writer *writer, double value); /* asserts that it is finite */
void hlm_json_bool(struct hlm_json_writer *writer, bool value);

/* Shortest decimal text (at most 24 characters) that strtod reads back to the same bits. */
void hlm_json_format_double(double value, char out[32]);

#endif
