/* json_read: from cJSON's tree to a struct, by its table. Shared by json.c and json_read.c only:
 * these two are the only files that know cJSON. */
#ifndef HLM_BASE_JSON_READ_H
#define HLM_BASE_JSON_READ_H

#include <cjson/cJSON.h>

#include "base/json.h"

struct hlm_json_reader {
    struct hlm_arena *arena;
    const char *name;
    struct hlm_err *err;
};

/* Where in the file we are: a chain up to the root, made into text only for a message. */
struct hlm_json_place {
    const struct hlm_json_place *up; /* NULL: the root */
    const char *key;                 /* NULL: an array element */
    int index;
};

/* Fills *object (zeroed, of the table's size) from the tree; absent optional keys get their
 * defaults. Everything that it refers to is copied to the arena. HLM_INPUT with file and JSON path
 * otherwise. */
HLM_MUST_CHECK enum hlm_status hlm_json_read_object(const struct hlm_json_reader *reader,
                                                    const struct hlm_json_place *place,
                                                    const struct hlm_json_table *table,
                                                    const cJSON *item, void *object);

/* Whether the item is a number of the field's type and range. */
bool hlm_json_number_fits(const struct hlm_json_field *field, const cJSON *item);

/* Write "<file>: <path>: expected <what>, found <item>"; the second says what the field accepts. */
enum hlm_status hlm_json_fail_found(const struct hlm_json_reader *reader,
                                    const struct hlm_json_place *place, const char *expected,
                                    const cJSON *item);
enum hlm_status hlm_json_fail_field(const struct hlm_json_reader *reader,
                                    const struct hlm_json_place *place,
                                    const struct hlm_json_field *field, const cJSON *item);

/* The place's key stands more than once in its object. */
enum hlm_status hlm_json_fail_duplicate(const struct hlm_json_reader *reader,
                                        const struct hlm_json_place *place);

#endif
