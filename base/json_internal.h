/* json_internal: what the json_*.c files share; nobody else includes it. */
#ifndef HLM_BASE_JSON_INTERNAL_H
#define HLM_BASE_JSON_INTERNAL_H

#include "base/json.h"

#define HLM_JSON_SCHEMA_PREFIX "hlmplan."
enum { HLM_JSON_VERSION = 1 };

/* Largest magnitude up to which every whole number is a double. */
#define HLM_JSON_MAX_INT 9007199254740992.0

/* The struct's bytes at a field, and the count that belongs to an array field. */
const void *hlm_json_at(const struct hlm_json_field *field, const void *object);
int32_t hlm_json_count(const struct hlm_json_field *field, const void *object);

/* What the lexical rules of RFC 8259 demand and cJSON lets pass or misreads: UTF-8 without NUL,
 * only the four white-space characters, no raw control character, \u0000 or bad escape in a string,
 * numbers of the JSON grammar ("01", "1." and "+1" are none) with at most 63 characters (cJSON's
 * buffer). exact_ints: a whole number written without fraction and exponent that no double holds
 * (2^53 + 1) is an error instead of being rounded. HLM_INPUT with name, line and column. The
 * grammar above words is left to cJSON. */
HLM_MUST_CHECK enum hlm_status hlm_json_scan(const char *name, const char *text, size_t length,
                                             bool exact_ints, struct hlm_err *err);

/* The message of every syntax error: "<name>: line 3, column 7: <problem>". Columns count bytes. */
enum hlm_status hlm_json_fail_in_text(struct hlm_err *err, const char *name, const char *text,
                                      size_t offset, const char *problem);

/* Adds what a field accepts, as messages and documentation put it: "a whole number in [1, 1024]".
 */
void hlm_json_describe(const struct hlm_json_field *field, struct hlm_text *text);

/* The range of a number, or of an array's length: -HUGE_VAL, HUGE_VAL where the field sets no
 * limit. Integers are also limited by their C type. */
struct hlm_json_range {
    double min, max;
};
struct hlm_json_range hlm_json_range(const struct hlm_json_field *field);

/* Adds a JSON string with quotes and escapes. */
void hlm_json_quote(struct hlm_text *text, const char *value, size_t length);

#endif
