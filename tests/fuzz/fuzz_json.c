/* fuzz_json: any bytes as a JSON file of a kind that has every type of field, and as a foreign
 * file. What is read is written and must read back to the same text. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/json.h"

struct leaf {
    int32_t num;
    double ratio;
    const char *note;
};

struct node {
    const char *name;
    const struct node *nodes;
    int32_t num_nodes;
};

struct root {
    bool flag;
    int32_t small;
    int64_t large;
    double rate;
    const char *name;
    int color;
    struct leaf leaf;
    const struct leaf *extra;
    const struct leaf *leaves;
    const struct node *nodes;
    const int32_t *ints;
    const double *doubles;
    const char *const *strings;
    int32_t num_leaves, num_nodes, num_ints, num_doubles, num_strings;
    int64_t date;
};

static const char *const colors[] = {"red", "green", NULL};

static const struct hlm_json_field leaf_fields[] = {
    {"num", HLM_JSON_INT, .offset = offsetof(struct leaf, num), HLM_FIELD_REQUIRED, .min = 1,
     .max = 64},
    {"ratio", HLM_JSON_DOUBLE, .offset = offsetof(struct leaf, ratio), .def = 0.5},
    {"note", HLM_JSON_STRING, .offset = offsetof(struct leaf, note), HLM_FIELD_OMIT_DEFAULT},
    {.name = NULL}};
static const struct hlm_json_table leaf_table = {"leaf", sizeof(struct leaf), leaf_fields};

static const struct hlm_json_table node_table;
static const struct hlm_json_field node_fields[] = {
    {"name", HLM_JSON_STRING, .offset = offsetof(struct node, name), HLM_FIELD_REQUIRED},
    {"nodes", HLM_JSON_ARRAY, .offset = offsetof(struct node, nodes), HLM_FIELD_OMIT_DEFAULT,
     .table = &node_table, .count_offset = offsetof(struct node, num_nodes)},
    {.name = NULL}};
static const struct hlm_json_table node_table = {"node", sizeof(struct node), node_fields};

static const struct hlm_json_field root_fields[] = {
    {"flag", HLM_JSON_BOOL, .offset = offsetof(struct root, flag), .def = 1},
    {"small", HLM_JSON_INT, .offset = offsetof(struct root, small), .min = 1},
    {"large", HLM_JSON_INT64, .offset = offsetof(struct root, large)},
    {"rate", HLM_JSON_DOUBLE, .offset = offsetof(struct root, rate)},
    {"name", HLM_JSON_STRING, .offset = offsetof(struct root, name), .def_text = "none"},
    {"color", HLM_JSON_ENUM, .offset = offsetof(struct root, color), .enums = colors},
    {"leaf", HLM_JSON_OBJECT, .offset = offsetof(struct root, leaf), .table = &leaf_table},
    {"extra", HLM_JSON_POINTER, .offset = offsetof(struct root, extra), .table = &leaf_table},
    {"leaves", HLM_JSON_ARRAY, .offset = offsetof(struct root, leaves), .max = 5,
     .table = &leaf_table, .count_offset = offsetof(struct root, num_leaves)},
    {"nodes", HLM_JSON_ARRAY, .offset = offsetof(struct root, nodes), .table = &node_table,
     .count_offset = offsetof(struct root, num_nodes)},
    {"ints", HLM_JSON_INTS, .offset = offsetof(struct root, ints),
     .count_offset = offsetof(struct root, num_ints)},
    {"doubles", HLM_JSON_DOUBLES, .offset = offsetof(struct root, doubles), .min = 2,
     .count_offset = offsetof(struct root, num_doubles)},
    {"strings", HLM_JSON_STRINGS, .offset = offsetof(struct root, strings),
     .count_offset = offsetof(struct root, num_strings)},
    {"date", HLM_JSON_INT64, .offset = offsetof(struct root, date), HLM_FIELD_META},
    {.name = NULL}};
static const struct hlm_json_table root_table = {"root", sizeof(struct root), root_fields};

static void fuzz_table(struct hlm_arena *arena, const char *text, size_t length)
{
    struct root root, again;
    struct hlm_err err = {.status = HLM_OK};
    if (hlm_json_read_text(arena, "input", text, length, &root_table, &root, &err) != HLM_OK) {
        HLM_ASSERT(err.status == HLM_INPUT && strncmp(err.text, "input: ", 7) == 0);
        return;
    }
    const char *written = hlm_json_write(arena, &root_table, &root, false);
    const enum hlm_status status =
        hlm_json_read_text(arena, "written", written, strlen(written), &root_table, &again, &err);
    HLM_ASSERT(status == HLM_OK);
    HLM_ASSERT(strcmp(written, hlm_json_write(arena, &root_table, &again, false)) == 0);
    HLM_ASSERT(strcmp(hlm_json_digest(arena, &root_table, &root),
                      hlm_json_digest(arena, &root_table, &again)) == 0);
}

static void fuzz_foreign(struct hlm_arena *arena, const char *text, size_t length)
{
    struct hlm_json_foreign *foreign = NULL;
    struct hlm_err err = {.status = HLM_OK};
    if (hlm_json_foreign_parse(arena, "input", text, length, &foreign, &err) != HLM_OK) {
        HLM_ASSERT(foreign == NULL);
        return;
    }
    static const char *const keys[] = {"hidden_size", "name", "flag", "rate", ""};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        int64_t whole = 1;
        double number = 0;
        bool flag = false, found = false;
        const char *word = "";
        if (hlm_json_foreign_int64(foreign, keys[i], 1, 1000, &whole, &found, &err) == HLM_OK) {
            HLM_ASSERT(whole >= 1 && whole <= 1000);
        }
        if (hlm_json_foreign_string(foreign, keys[i], &word, &found, &err) == HLM_OK) {
            HLM_ASSERT(word != NULL);
        }
        /* Only must not crash: any number and any bool will do. */
        (void)!hlm_json_foreign_double(foreign, keys[i], &number, &found, &err);
        (void)!hlm_json_foreign_bool(foreign, keys[i], &flag, &found, &err);
    }
    hlm_json_foreign_free(foreign);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hlm_arena *arena = hlm_arena_new();
    const char *text = (const char *)data, *kind = NULL;
    struct hlm_err err = {.status = HLM_OK};
    fuzz_table(arena, text, size);
    fuzz_foreign(arena, text, size);
    (void)!hlm_json_peek_kind(arena, "input", text, size, &kind, &err);
    hlm_arena_free(arena);
    return 0;
}
