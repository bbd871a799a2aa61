#include <float.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "tests/support/check.h"

/* ---- a kind that has every type of field ---- */

struct expert {
    int32_t num, top_k;
    double ratio;
};

struct item {
    const char *name;
    int64_t bytes;
    struct expert inner;
};

/* A tree of named parts, as estimates are. */
struct part {
    const char *name;
    double seconds;
    const struct part *parts;
    int32_t num_parts;
};

enum color { RED, GREEN, BLUE };
static const char *const colors[] = {"red", "green", "blue", NULL};

struct thing {
    bool flag, on;
    int32_t layers, free_int;
    int64_t memory;
    double rate, any;
    const char *name, *note, *unit;
    enum color color;
    struct expert moe, spare;
    const struct expert *extra;
    const struct item *items;
    const int32_t *ranks;
    const double *curve;
    const char *const *tags;
    const struct part *parts;
    int32_t num_items, num_ranks, num_curve, num_tags, num_parts;
    int64_t date;
};

#define AT(type, member) .offset = offsetof(struct type, member)

static const struct hlm_json_field expert_fields[] = {
    {"num", HLM_JSON_INT, AT(expert, num), HLM_FIELD_REQUIRED, .min = 1, .max = 1024},
    {"top_k", HLM_JSON_INT, AT(expert, top_k), .min = 1, .max = 1024, .def = 2,
     .doc = "Experts per token."},
    {"ratio", HLM_JSON_DOUBLE, AT(expert, ratio), .def = 0.5},
    {.name = NULL}};
static const struct hlm_json_table expert_table = {"expert", sizeof(struct expert), expert_fields};

static const struct hlm_json_field item_fields[] = {
    {"name", HLM_JSON_STRING, AT(item, name), HLM_FIELD_REQUIRED},
    {"bytes", HLM_JSON_INT64, AT(item, bytes), .min = 1},
    {"inner", HLM_JSON_OBJECT, AT(item, inner), .table = &expert_table},
    {.name = NULL}};
static const struct hlm_json_table item_table = {"item", sizeof(struct item), item_fields};

static const struct hlm_json_table part_table;
static const struct hlm_json_field part_fields[] = {
    {"name", HLM_JSON_STRING, AT(part, name), HLM_FIELD_REQUIRED},
    {"seconds", HLM_JSON_DOUBLE, AT(part, seconds), HLM_FIELD_REQUIRED},
    {"parts", HLM_JSON_ARRAY, AT(part, parts), HLM_FIELD_OMIT_DEFAULT, .table = &part_table,
     .count_offset = offsetof(struct part, num_parts)},
    {.name = NULL}};
static const struct hlm_json_table part_table = {"part", sizeof(struct part), part_fields};

static const struct hlm_json_field thing_fields[] = {
    {"flag", HLM_JSON_BOOL, AT(thing, flag), HLM_FIELD_REQUIRED, .doc = "A flag."},
    {"on", HLM_JSON_BOOL, AT(thing, on), .def = 1},
    {"layers", HLM_JSON_INT, AT(thing, layers), HLM_FIELD_REQUIRED, .min = 1, .max = 1000},
    {"free_int", HLM_JSON_INT, AT(thing, free_int)},
    {"memory", HLM_JSON_INT64, AT(thing, memory)},
    {"rate", HLM_JSON_DOUBLE, AT(thing, rate), .min = 0, .max = 1},
    {"any", HLM_JSON_DOUBLE, AT(thing, any), .def = -1.5},
    {"name", HLM_JSON_STRING, AT(thing, name), HLM_FIELD_REQUIRED},
    {"note", HLM_JSON_STRING, AT(thing, note)},
    {"unit", HLM_JSON_STRING, AT(thing, unit), .def_text = "bytes"},
    {"color", HLM_JSON_ENUM, AT(thing, color), .enums = colors, .def = GREEN},
    {"moe", HLM_JSON_OBJECT, AT(thing, moe), HLM_FIELD_OMIT_DEFAULT, .table = &expert_table},
    {"spare", HLM_JSON_OBJECT, AT(thing, spare), .table = &expert_table},
    {"extra", HLM_JSON_POINTER, AT(thing, extra), .table = &expert_table},
    {"items", HLM_JSON_ARRAY, AT(thing, items), .max = 3, .table = &item_table,
     .count_offset = offsetof(struct thing, num_items)},
    {"ranks", HLM_JSON_INTS, AT(thing, ranks), .count_offset = offsetof(struct thing, num_ranks)},
    {"curve", HLM_JSON_DOUBLES, AT(thing, curve), .min = 2,
     .count_offset = offsetof(struct thing, num_curve)},
    {"tags", HLM_JSON_STRINGS, AT(thing, tags), .count_offset = offsetof(struct thing, num_tags)},
    {"parts", HLM_JSON_ARRAY, AT(thing, parts), HLM_FIELD_OMIT_DEFAULT, .table = &part_table,
     .count_offset = offsetof(struct thing, num_parts)},
    {"date", HLM_JSON_INT64, AT(thing, date), HLM_FIELD_META, .doc = "When it was made."},
    {.name = NULL}};
static const struct hlm_json_table thing_table = {"thing", sizeof(struct thing), thing_fields};

/* ---- scene ---- */

struct scene {
    struct hlm_arena *arena;
    struct hlm_err err;
    struct thing thing;
};

static int enter(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    scene->arena = hlm_arena_new();
    *state = scene;
    return 0;
}

static int leave(void **state)
{
    struct scene *scene = *state;
    hlm_arena_free(scene->arena);
    free(scene);
    return 0;
}

#define HEADER "\"schema\": \"hlmplan.thing\", \"version\": 1"
#define MINIMUM "\"flag\": true, \"layers\": 3, \"name\": \"n\""

static enum hlm_status read_text(struct scene *scene, const char *text)
{
    return hlm_json_read_text(scene->arena, "x.json", text, strlen(text), &thing_table,
                              &scene->thing, &scene->err);
}

/* Reads the least that is valid plus `more` keys. */
static enum hlm_status read_more(struct scene *scene, const char *more)
{
    return read_text(scene, hlm_arena_printf(scene->arena, "{" HEADER ", " MINIMUM ", %s}", more));
}

#define check_more_fails(scene, more, part)                                                        \
    check_fails(read_more((scene), (more)), HLM_INPUT, &(scene)->err, (part))
#define check_text_fails(scene, text, part)                                                        \
    check_fails(read_text((scene), (text)), HLM_INPUT, &(scene)->err, (part))

/* ---- reading ---- */

static void absent_keys_get_their_defaults(void **state)
{
    struct scene *scene = *state;
    check_ok(read_text(scene, "{" HEADER ", " MINIMUM "}"), &scene->err);
    const struct thing *thing = &scene->thing;
    assert_true(thing->flag && thing->on);
    assert_int_equal(thing->layers, 3);
    assert_int_equal(thing->memory, 0);
    assert_true(thing->any == -1.5);
    assert_null(thing->note);
    assert_string_equal(thing->unit, "bytes");
    assert_int_equal(thing->color, GREEN);
    assert_int_equal(thing->moe.top_k, 2);
    assert_true(thing->moe.ratio == 0.5);
    assert_null(thing->extra);
    assert_int_equal(thing->num_items, 0);
    assert_int_equal(thing->num_tags, 0);
}

static void every_type_is_read(void **state)
{
    struct scene *scene = *state;
    check_ok(read_more(scene, "\"on\": false, \"free_int\": -2147483648, \"memory\": 85899345920,"
                              "\"rate\": 0.25, \"color\": \"blue\", \"note\": \"a\\u00e9\\n\","
                              "\"moe\": {\"num\": 8}, \"extra\": {\"num\": 4, \"ratio\": 1e-3},"
                              "\"items\": [{\"name\": \"a\", \"bytes\": 7},"
                              "{\"name\": \"b\", \"inner\": {\"num\": 1, \"top_k\": 1}}],"
                              "\"ranks\": [3, 1, 2], \"curve\": [1.5, -2e3], \"tags\": [\"t\"],"
                              "\"date\": 9007199254740992"),
             &scene->err);
    const struct thing *thing = &scene->thing;
    assert_false(thing->on);
    assert_int_equal(thing->free_int, INT32_MIN);
    assert_true(thing->memory == 85899345920); /* 80 GiB: more than an int */
    assert_int_equal(thing->color, BLUE);
    assert_string_equal(thing->note, "a\xC3\xA9\n");
    assert_int_equal(thing->moe.num, 8);
    assert_int_equal(thing->moe.top_k, 2);
    assert_true(thing->extra->ratio == 1e-3);
    assert_int_equal(thing->num_items, 2);
    assert_string_equal(thing->items[1].name, "b");
    assert_int_equal(thing->items[0].bytes, 7);
    assert_int_equal(thing->items[1].inner.top_k, 1);
    assert_int_equal(thing->items[0].inner.top_k, 2); /* default inside an array */
    assert_int_equal(thing->num_ranks, 3);
    assert_int_equal(thing->ranks[2], 2);
    assert_true(thing->curve[1] == -2000);
    assert_string_equal(thing->tags[0], "t");
    assert_true(thing->date == INT64_C(1) << 53);
}

static void null_is_absent_for_pointers_and_optional_strings_only(void **state)
{
    struct scene *scene = *state;
    check_ok(read_more(scene, "\"extra\": null, \"unit\": null"), &scene->err);
    assert_null(scene->thing.extra);
    assert_null(scene->thing.unit);
    check_more_fails(scene, "\"rate\": null", "$.rate: expected a number in [0, 1], found null");
    check_more_fails(scene, "\"items\": null", "$.items: expected an array of 0 to 3 objects");
    check_text_fails(scene, "{" HEADER ", \"flag\": true, \"layers\": 3, \"name\": null}",
                     "$.name: expected a string, found null");
}

static void failure_leaves_the_output_alone(void **state)
{
    struct scene *scene = *state;
    struct thing before;
    memset(&before, 0x5A, sizeof before);
    memcpy(&scene->thing, &before, sizeof before);
    check_more_fails(scene, "\"rate\": 2", "found 2");
    assert_memory_equal(&scene->thing, &before, sizeof before);
}

static void wrong_types_and_ranges_name_the_path(void **state)
{
    struct scene *scene = *state;
    check_more_fails(scene, "\"on\": 1", "x.json: $.on: expected true or false, found 1");
    check_more_fails(scene, "\"rate\": 1.5", "$.rate: expected a number in [0, 1], found 1.5");
    check_more_fails(scene, "\"rate\": \"1\"", "found \"1\"");
    check_more_fails(scene, "\"free_int\": 2147483648",
                     "$.free_int: expected a whole number of 32 bits, found 2147483648");
    check_more_fails(scene, "\"free_int\": 0.5", "found 0.5");
    check_more_fails(scene, "\"memory\": 1e16", "a whole number of at most 2^53, found 1e16");
    check_more_fails(scene, "\"moe\": {\"num\": 0}",
                     "$.moe.num: expected a whole number in [1, 1024], found 0");
    check_more_fails(scene, "\"moe\": []", "$.moe: expected an object, found an array");
    check_more_fails(scene, "\"items\": [{\"name\": \"a\"}, {\"name\": \"b\", \"bytes\": 0}]",
                     "$.items[1].bytes: expected a whole number of at least 1, found 0");
    check_more_fails(scene, "\"items\": [{\"name\": \"a\", \"inner\": {\"num\": true}}]",
                     "$.items[0].inner.num: expected a whole number in [1, 1024], found true");
    check_more_fails(scene, "\"color\": \"pink\"",
                     "$.color: expected one of \"red\", \"green\", \"blue\", found \"pink\"");
    check_more_fails(scene, "\"color\": 1", "found 1");
    check_more_fails(scene, "\"ranks\": [1, 2.5]", "$.ranks[1]: expected a whole number");
    check_more_fails(scene, "\"curve\": [1, {}]", "$.curve[1]: expected a number, found an object");
    check_more_fails(scene, "\"tags\": [null]", "$.tags[0]: expected a string, found null");
}

static void lengths_of_arrays_are_checked(void **state)
{
    struct scene *scene = *state;
    check_more_fails(scene, "\"curve\": [1]",
                     "$.curve: expected an array of at least 2 numbers, found 1");
    check_more_fails(scene,
                     "\"items\": [{\"name\":\"a\"},{\"name\":\"a\"},{\"name\":\"a\"},"
                     "{\"name\":\"a\"}]",
                     "$.items: expected an array of 0 to 3 objects, found 4");
}

static void unknown_keys_are_errors_with_a_suggestion(void **state)
{
    struct scene *scene = *state;
    check_more_fails(scene, "\"moe\": {\"num\": 1, \"topk\": 1}",
                     "x.json: $.moe: unknown key \"topk\" (did you mean \"top_k\"?)");
    check_more_fails(scene, "\"zzzzzz\": 1", "$: unknown key \"zzzzzz\"");
    assert_null(strstr(scene->err.text, "did you mean"));
    /* cJSON's look-up would take this for "rate". */
    check_more_fails(scene, "\"Rate\": 0.5", "unknown key \"Rate\" (did you mean \"rate\"?)");
    /* The header belongs to the top only. */
    check_more_fails(scene, "\"moe\": {\"num\": 1, \"version\": 1}", "unknown key \"version\"");
    check_more_fails(scene, "\"\\u001b[31m\": 1", "unknown key \"\\u001b[31m\"");
}

static void duplicate_and_missing_keys(void **state)
{
    struct scene *scene = *state;
    check_more_fails(scene, "\"rate\": 0, \"rate\": 1",
                     "x.json: $.rate: the key stands there more than once");
    check_more_fails(scene, "\"version\": 1", "$.version: the key stands there more than once");
    check_more_fails(scene, "\"moe\": {}", "$.moe: the key \"num\" is missing");
    check_text_fails(scene, "{" HEADER ", \"flag\": true, \"name\": \"n\"}",
                     "$: the key \"layers\" is missing (a whole number in [1, 1000])");
}

static void header_is_checked(void **state)
{
    struct scene *scene = *state;
    check_text_fails(scene, "{\"schema\": \"hlmplan.plan\", \"version\": 1, " MINIMUM "}",
                     "x.json: $.schema: expected \"hlmplan.thing\", found \"hlmplan.plan\"");
    check_text_fails(scene, "{\"version\": 1, " MINIMUM "}",
                     "$: the key \"schema\" is missing (\"hlmplan.thing\")");
    check_text_fails(scene, "{\"schema\": \"hlmplan.thing\", " MINIMUM "}",
                     "$: the key \"version\" is missing");
    check_text_fails(scene, "{\"schema\": \"hlmplan.thing\", \"version\": 2, " MINIMUM "}",
                     "$.version: expected 1, found 2");
    check_text_fails(scene, "[1]", "$: expected an object, found an array");
}

/* ---- syntax: what cJSON lets pass ---- */

static void syntax_errors_name_line_and_column(void **state)
{
    struct scene *scene = *state;
    check_text_fails(scene, "", "x.json: line 1, column 1: the JSON text ends too early");
    check_text_fails(scene, "{\n  \"a\": tru\n}", "x.json: line 2, column 8: not valid JSON");
    check_text_fails(scene, "{\"a\": [1, 2}", "not valid JSON");
    check_text_fails(scene, "{\"a\": \"b", "x.json: line 1, column");
    check_text_fails(scene, "{" HEADER ", " MINIMUM "}\n x",
                     "line 2, column 2: text after the end of the JSON value");
    check_text_fails(scene, "{" HEADER ", " MINIMUM "}{}", "text after the end");
    check_ok(read_text(scene, " \n{" HEADER ", " MINIMUM "}\r\n\t "), &scene->err);
}

static void numbers_follow_the_grammar(void **state)
{
    struct scene *scene = *state;
    static const char *const bad[] = {"01", "-", "1.", "1.e3", "-01", "1e", "1e+", "0x10", "00"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        check_fails(read_more(scene, hlm_arena_printf(scene->arena, "\"any\": %s", bad[i])),
                    HLM_INPUT, &scene->err, "x.json: line 1, column");
    }
    static const char *const words[] = {"+1", ".5", "NaN", "Infinity", "nan"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        check_fails(read_more(scene, hlm_arena_printf(scene->arena, "\"any\": %s", words[i])),
                    HLM_INPUT, &scene->err, "not valid JSON");
    }
    check_ok(read_more(scene, "\"any\": -0.5E+2"), &scene->err);
    assert_true(scene->thing.any == -50);
    check_ok(read_more(scene, "\"memory\": 2.5e3"), &scene->err);
    assert_int_equal(scene->thing.memory, 2500);
}

static void numbers_that_cjson_would_misread(void **state)
{
    struct scene *scene = *state;
    check_more_fails(scene, "\"any\": 1e999", "$.any: expected a number, found a number too large");
    check_more_fails(scene, "\"any\": -1e999", "$.any: expected a number");
    /* 2^53 + 1 would be read as 2^53. */
    check_more_fails(scene, "\"memory\": 9007199254740993", "too large to be held exactly");
    check_ok(read_more(scene, "\"memory\": -9007199254740992"), &scene->err);
    assert_true(scene->thing.memory == -(INT64_C(1) << 53));
    check_more_fails(scene, "\"memory\": 9007199254740994", "at most 2^53");

    const char *zeros = "000000000000000000000000000000000000000000000000000000000000";
    check_more_fails(scene, hlm_arena_printf(scene->arena, "\"any\": 0.%s12", zeros),
                     "a number may have at most 63 characters");
    check_ok(read_more(scene, hlm_arena_printf(scene->arena, "\"any\": 0.%s1", zeros)),
             &scene->err); /* 63 */
    check_close(scene->thing.any, 1e-61, 1e-15);
}

static void bytes_that_are_no_json(void **state)
{
    struct scene *scene = *state;
    static const char *const bad[] = {"\"note\": \"a\xFF\"",
                                      "\"note\": \"\xC0\xAF\"",         /* overlong */
                                      "\"note\": \"\xED\xA0\x80\"",     /* surrogate */
                                      "\"note\": \"\xF4\x90\x80\x80\"", /* beyond U+10FFFF */
                                      "\"note\": \"\xE2\x82\"",
                                      "\"note\": \"\\\xFF\"",
                                      "\"note\": \"tab\there\"",
                                      "\"note\": \"line\nhere\"",
                                      "\"note\": \"\\u0000\"",
                                      "\"note\": \"a\\u0000b\"",
                                      "\"no\\u0000te\": 1",
                                      "\"note\": \"\\ud800\"",
                                      "\"note\": \"\\udc00\\ud800\"",
                                      "\"note\": \"\\x41\"",
                                      "\"note\": \"\\u12\"",
                                      "\"note\": \"\\u12g4\"",
                                      "\"any\": \f1",
                                      "\"any\": 1 /* comment */",
                                      "\"any\": 1,",
                                      "\"any\": \x7F",
                                      "\"any\": 1\xC2\xA0"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        check_fails(read_more(scene, bad[i]), HLM_INPUT, &scene->err, "x.json: line");
    }
    static const char with_nul[] = "{" HEADER ", " MINIMUM ", \"note\": \"a\0b\"}";
    check_fails(hlm_json_read_text(scene->arena, "x.json", with_nul, sizeof with_nul - 1,
                                   &thing_table, &scene->thing, &scene->err),
                HLM_INPUT, &scene->err, "a control character in a string");
    check_ok(read_more(scene, "\"note\": \"\\\\u0000 \\ud83d\\ude00 \xF0\x9F\x98\x80\""),
             &scene->err);
    assert_string_equal(scene->thing.note, "\\u0000 \xF0\x9F\x98\x80 \xF0\x9F\x98\x80");
    check_ok(read_text(scene, "\xEF\xBB\xBF{" HEADER ", " MINIMUM "}"), &scene->err);
}

static void deep_nesting_is_refused_and_allowed_depth_works(void **state)
{
    struct scene *scene = *state;
    enum { TOO_DEEP = 100000, DEEP = 499 };
    char *brackets = hlm_arena_alloc(scene->arena, TOO_DEEP + 1, 1);
    memset(brackets, '[', TOO_DEEP);
    check_text_fails(scene, brackets, "not valid JSON");

    struct hlm_text text;
    hlm_text_init(&text, scene->arena);
    hlm_text_printf(&text, "\"parts\": [");
    for (int i = 0; i < DEEP; i++) {
        hlm_text_printf(&text, "{\"name\": \"p\", \"seconds\": %d, \"parts\": [", i);
    }
    for (int i = 0; i < DEEP; i++) {
        hlm_text_printf(&text, "]}");
    }
    hlm_text_printf(&text, "]");
    check_ok(read_more(scene, text.text), &scene->err);
    const struct part *part = scene->thing.parts;
    for (int i = 0; i < DEEP - 1; i++) {
        assert_true(part->seconds == i && part->num_parts == 1);
        part = part->parts;
    }
    assert_int_equal(part->num_parts, 0);
    const char *written = hlm_json_write(scene->arena, &thing_table, &scene->thing, false);
    check_ok(read_text(scene, written), &scene->err);
    assert_string_equal(hlm_json_write(scene->arena, &thing_table, &scene->thing, false), written);
}

/* Every prefix of a valid text is an error, and none reads past its end (the copy has no
 * terminator). */
static void every_prefix_fails_cleanly(void **state)
{
    struct scene *scene = *state;
    static const char text[] = "{" HEADER ", " MINIMUM ", \"note\": \"\\u00e9\\\"\xC3\xA9\","
                               " \"curve\": [1.5e3, -2], \"moe\": {\"num\": 3}}";
    for (size_t length = 0; length < sizeof text - 1; length++) {
        char *prefix = malloc(length + 1);
        char *exact = length == 0 ? prefix : realloc(prefix, length);
        memcpy(exact, text, length);
        check_fails(hlm_json_read_text(scene->arena, "x.json", exact, length, &thing_table,
                                       &scene->thing, &scene->err),
                    HLM_INPUT, &scene->err, "x.json: line 1, column");
        free(exact);
    }
    check_ok(read_text(scene, text), &scene->err);
}

static void long_found_values_are_cut(void **state)
{
    struct scene *scene = *state;
    struct hlm_text text;
    hlm_text_init(&text, scene->arena);
    hlm_text_printf(&text, "\"rate\": \"");
    for (int i = 0; i < 3000; i++) {
        hlm_text_printf(&text, "\xC3\xA9");
    }
    hlm_text_printf(&text, "\"");
    check_more_fails(scene, text.text, "\xC3\xA9\"...");
    assert_true(strlen(scene->err.text) < 200);
}

/* ---- writing ---- */

static void canonical_text(void **state)
{
    struct scene *scene = *state;
    check_ok(read_more(scene, "\"ranks\": [3,1], \"items\": [{\"name\": \"a\\\"\\u0007\\\\/\","
                              "\"bytes\": 7, \"inner\": {\"num\": 1}}], \"curve\": [0.1, 1e20],"
                              "\"extra\": {\"num\": 4}, \"spare\": {\"num\": 1},"
                              "\"tags\": [\"a\", \"b\"], \"date\": 5"),
             &scene->err);
    assert_string_equal(hlm_json_write(scene->arena, &thing_table, &scene->thing, false),
                        "{\n"
                        "  \"schema\": \"hlmplan.thing\",\n"
                        "  \"version\": 1,\n"
                        "  \"flag\": true,\n"
                        "  \"on\": true,\n"
                        "  \"layers\": 3,\n"
                        "  \"free_int\": 0,\n"
                        "  \"memory\": 0,\n"
                        "  \"rate\": 0,\n"
                        "  \"any\": -1.5,\n"
                        "  \"name\": \"n\",\n"
                        "  \"note\": null,\n"
                        "  \"unit\": \"bytes\",\n"
                        "  \"color\": \"green\",\n"
                        "  \"spare\": {\n"
                        "    \"num\": 1,\n"
                        "    \"top_k\": 2,\n"
                        "    \"ratio\": 0.5\n"
                        "  },\n"
                        "  \"extra\": {\n"
                        "    \"num\": 4,\n"
                        "    \"top_k\": 2,\n"
                        "    \"ratio\": 0.5\n"
                        "  },\n"
                        "  \"items\": [\n"
                        "    {\n"
                        "      \"name\": \"a\\\"\\u0007\\\\/\",\n"
                        "      \"bytes\": 7,\n"
                        "      \"inner\": {\n"
                        "        \"num\": 1,\n"
                        "        \"top_k\": 2,\n"
                        "        \"ratio\": 0.5\n"
                        "      }\n"
                        "    }\n"
                        "  ],\n"
                        "  \"ranks\": [3, 1],\n"
                        "  \"curve\": [0.1, 1e20],\n"
                        "  \"tags\": [\"a\", \"b\"],\n"
                        "  \"date\": 5\n"
                        "}\n");
}

static void written_text_reads_back_to_the_same_bytes(void **state)
{
    struct scene *scene = *state;
    static const int32_t ranks[] = {INT32_MIN, -1, 0, INT32_MAX};
    static const double curve[] = {DBL_MIN, DBL_MAX, -DBL_TRUE_MIN, -0.0};
    static const char *const tags[] = {"", "\t\n\"\\\x01\x7F", "\xE2\x82\xAC"};
    static const struct part leaves[] = {{"x", 0.1, NULL, 0}, {"y", 1.0 / 3, NULL, 0}};
    static const struct part root = {"all", 0.43333, leaves, 2};
    static const struct item items[] = {{"i", 1, {1, 1, 1.5}}, {"k", 80, {3, 4, -1}}};
    static const struct expert extra = {2, 3, 1e-300};
    const struct thing thing = {.flag = false,
                                .layers = 96,
                                .memory = INT64_C(1) << 53,
                                .rate = 0.7,
                                .name = "n",
                                .note = "",
                                .color = RED,
                                .moe = {5, 5, 5},
                                .spare = {1, 2, 3},
                                .extra = &extra,
                                .items = items,
                                .num_items = 2,
                                .ranks = ranks,
                                .num_ranks = 4,
                                .curve = curve,
                                .num_curve = 4,
                                .tags = tags,
                                .num_tags = 3,
                                .parts = &root,
                                .num_parts = 1,
                                .date = -7};
    const char *text = hlm_json_write(scene->arena, &thing_table, &thing, false);
    check_ok(read_text(scene, text), &scene->err);
    assert_string_equal(hlm_json_write(scene->arena, &thing_table, &scene->thing, false), text);
    assert_memory_equal(scene->thing.ranks, ranks, sizeof ranks);
    assert_memory_equal(scene->thing.curve, curve, sizeof curve);
    assert_string_equal(scene->thing.tags[1], tags[1]);
    assert_string_equal(scene->thing.note, "");
    assert_null(scene->thing.unit);
    assert_true(scene->thing.parts[0].parts[1].seconds == 1.0 / 3);
    assert_int_equal(scene->thing.items[1].inner.top_k, 4);
}

static void defaults_can_be_left_out(void **state)
{
    struct scene *scene = *state;
    check_ok(read_text(scene, "{" HEADER ", " MINIMUM "}"), &scene->err);
    const char *text = hlm_json_write(scene->arena, &thing_table, &scene->thing, false);
    assert_null(strstr(text, "\"moe\""));
    assert_null(strstr(text, "\"parts\""));
    /* Not asked for, but their defaults are out of their own range and could not be read again. */
    assert_null(strstr(text, "\"spare\""));
    assert_null(strstr(text, "\"curve\""));
    check_ok(read_text(scene, text), &scene->err);
    scene->thing.moe.ratio = 0.25;
    scene->thing.moe.num = 1;
    text = hlm_json_write(scene->arena, &thing_table, &scene->thing, false);
    assert_non_null(strstr(text, "\"moe\": {\n"));
    check_ok(read_text(scene, text), &scene->err);
    assert_true(scene->thing.moe.ratio == 0.25);
}

static void digest_ignores_meta_and_nothing_else(void **state)
{
    struct scene *scene = *state;
    check_ok(read_more(scene, "\"spare\": {\"num\": 1}"), &scene->err);
    const char *digest = hlm_json_digest(scene->arena, &thing_table, &scene->thing);
    assert_int_equal(strlen(digest), 16);
    const char *text = hlm_json_write(scene->arena, &thing_table, &scene->thing, true);
    assert_null(strstr(text, "date"));
    char expected[17];
    snprintf(expected, sizeof expected, "%016llx",
             (unsigned long long)hlm_hash(HLM_HASH_START, text, strlen(text)));
    assert_string_equal(digest, expected);

    scene->thing.date = 99;
    assert_string_equal(hlm_json_digest(scene->arena, &thing_table, &scene->thing), digest);
    scene->thing.rate = nextafter(scene->thing.rate, 1);
    assert_string_not_equal(hlm_json_digest(scene->arena, &thing_table, &scene->thing), digest);
}

static void doubles_are_shortest_and_exact(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *text;
    } samples[] = {{0, "0"},
                   {-0.0, "-0"},
                   {1, "1"},
                   {0.1, "0.1"},
                   {1e20, "1e20"},
                   {1e-7, "1e-7"},
                   {312e12, "312000000000000"},
                   {1.0 / 3, "0.3333333333333333"},
                   {5e-324, "5e-324"},
                   {DBL_MAX, "1.7976931348623157e308"},
                   {-1.5e-300, "-1.5e-300"},
                   {9007199254740992.0, "9007199254740992"},
                   {123456.75, "123456.75"}};
    char text[32];
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        hlm_json_format_double(samples[i].value, text);
        assert_string_equal(text, samples[i].text);
    }
    /* Random bits: every exponent, subnormals included. */
    for (uint64_t i = 0; i < 100000; i++) {
        const uint64_t bits = hlm_rng_bits(4, i);
        double value = 0;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) {
            continue;
        }
        hlm_json_format_double(value, text);
        assert_true(strlen(text) <= 24);
        const double back = strtod(text, NULL);
        assert_memory_equal(&back, &value, sizeof value);
    }
}

static void random_doubles_survive_the_file(void **state)
{
    struct scene *scene = *state;
    enum { NUM = 5000 };
    double *values = HLM_ARENA_ARRAY(scene->arena, double, NUM);
    for (int i = 0; i < NUM; i++) {
        do {
            const uint64_t bits = hlm_rng_bits(77, (uint64_t)i);
            memcpy(&values[i], &bits, sizeof bits);
            values[i] = isfinite(values[i]) ? values[i] : hlm_rng_uniform(78, (uint64_t)i);
        } while (!isfinite(values[i]));
    }
    struct thing thing = {.layers = 1,
                          .name = "n",
                          .spare = {1, 1, 1},
                          .moe = {1, 1, 1},
                          .curve = values,
                          .num_curve = NUM};
    check_ok(read_text(scene, hlm_json_write(scene->arena, &thing_table, &thing, false)),
             &scene->err);
    assert_int_equal(scene->thing.num_curve, NUM);
    assert_memory_equal(scene->thing.curve, values, NUM * sizeof *values);
}

static void writer_without_a_table(void **state)
{
    struct scene *scene = *state;
    for (int compact = 0; compact < 2; compact++) {
        struct hlm_json_writer writer;
        hlm_json_writer_init(&writer, scene->arena, compact == 1);
        hlm_json_begin_object(&writer);
        hlm_json_key(&writer, "a\"b");
        hlm_json_begin_array(&writer);
        hlm_json_int64(&writer, INT64_MIN);
        hlm_json_double(&writer, 2.5);
        hlm_json_bool(&writer, false);
        hlm_json_string(&writer, NULL);
        hlm_json_begin_object(&writer);
        hlm_json_end_object(&writer);
        hlm_json_end_array(&writer);
        hlm_json_key(&writer, "e");
        hlm_json_begin_array(&writer);
        hlm_json_end_array(&writer);
        hlm_json_end_object(&writer);
        assert_string_equal(writer.text.text,
                            compact == 1
                                ? "{\"a\\\"b\":[-9223372036854775808,2.5,false,null,{}],\"e\":[]}"
                                : "{\n  \"a\\\"b\": [\n    -9223372036854775808,\n    2.5,\n"
                                  "    false,\n    null,\n    {}\n  ],\n  \"e\": []\n}");
    }
}

/* ---- the rest ---- */

static void files_are_read(void **state)
{
    struct scene *scene = *state;
    char path[] = P_tmpdir "/hlm_test_json_XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    static const char text[] = "{" HEADER ", " MINIMUM ", \"rate\": 3}";
    check_ok(hlm_file_write(path, text, sizeof text - 1, &scene->err), &scene->err);
    check_fails(hlm_json_read_file(scene->arena, path, &thing_table, &scene->thing, &scene->err),
                HLM_INPUT, &scene->err,
                hlm_arena_printf(scene->arena, "%s: $.rate: expected", path));
    unlink(path);
    check_fails(hlm_json_read_file(scene->arena, path, &thing_table, &scene->thing, &scene->err),
                HLM_INPUT, &scene->err, "No such file or directory");
}

static void kind_of_a_text(void **state)
{
    struct scene *scene = *state;
    static const struct {
        const char *text, *kind;
    } samples[] = {{"{\"version\": 1, \"schema\": \"hlmplan.plan\", \"x\": 3}", "plan"},
                   {"{\"schema\": \"other\"}", NULL},
                   {"{\"schema\": 3}", NULL},
                   {"{\"Schema\": \"hlmplan.plan\"}", NULL},
                   {"[]", NULL},
                   {"{\"model_type\": \"llama\"}", NULL}};
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        const char *kind = "?";
        check_ok(hlm_json_peek_kind(scene->arena, "x", samples[i].text, strlen(samples[i].text),
                                    &kind, &scene->err),
                 &scene->err);
        if (samples[i].kind == NULL) {
            assert_null(kind);
        } else {
            assert_string_equal(kind, samples[i].kind);
        }
    }
    const char *kind = "?";
    check_fails(hlm_json_peek_kind(scene->arena, "x", "h100:2x8", 8, &kind, &scene->err), HLM_INPUT,
                &scene->err, "x: line 1, column 1: not valid JSON");
    assert_string_equal(kind, "?");
}

/* A kind as others write it. */
struct foreign_item {
    int32_t num, maybe;
    double truth;
    const char *const *tags;
    int32_t num_tags;
};
static const struct hlm_json_field foreign_item_fields[] = {
    {"num", HLM_JSON_INT, AT(foreign_item, num), HLM_FIELD_REQUIRED, .min = 0, .max = 9},
    {"maybe", HLM_JSON_INT, AT(foreign_item, maybe), HLM_FIELD_NULLABLE, .def = 7},
    {"truth", HLM_JSON_DOUBLE, AT(foreign_item, truth), HLM_FIELD_OR_BOOL},
    {"tags", HLM_JSON_STRINGS, AT(foreign_item, tags), HLM_FIELD_OR_ONE,
     .count_offset = offsetof(struct foreign_item, num_tags)},
    {.name = HLM_JSON_OTHER_KEYS, .type = HLM_JSON_STRING},
    {.name = NULL}};
static const struct hlm_json_table foreign_item_table = {
    "foreign_item", sizeof(struct foreign_item), foreign_item_fields};

static void lists_of_others_are_read(void **state)
{
    (void)state;
    static const char text[] =
        "[{\"num\":1,\"maybe\":null,\"truth\":true,\"tags\":\"x\",\"colour\":[{}]},"
        "{\"num\":2,\"maybe\":3,\"truth\":0.5,\"tags\":[\"y\",\"z\"]},"
        "{\"num\":3,\"truth\":\"no\"},{\"maybe\":1},7,{\"num\":4,\"num\":5}]";
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_json_list list;
    check_ok(hlm_json_read_list(arena, "f", text, strlen(text), &foreign_item_table, &list, &err),
             &err);
    const struct foreign_item *items = list.objects;
    assert_int_equal(list.num, 6);
    assert_null(list.errors[0]);
    assert_int_equal(items[0].maybe, 7);
    assert_true(items[0].truth == 1.0);
    assert_int_equal(items[0].num_tags, 1);
    assert_string_equal(items[0].tags[0], "x");
    assert_null(list.errors[1]);
    assert_int_equal(items[1].maybe, 3);
    assert_true(items[1].truth == 0.5);
    assert_string_equal(items[1].tags[1], "z");
    assert_int_equal(items[2].num, 3); /* what stands in front of the deviation */
    assert_string_equal(list.errors[2], "f: $[2].truth: expected a number, found \"no\"");
    assert_non_null(strstr(list.errors[3], "$[3]: the key \"num\" is missing"));
    assert_string_equal(list.errors[4], "f: $[4]: expected an object, found 7");
    assert_non_null(strstr(list.errors[5], "$[5].num: the key stands there more than once"));
    check_fails(hlm_json_read_list(arena, "f", "7", 1, &foreign_item_table, &list, &err), HLM_INPUT,
                &err, "f: $: expected an array, found 7");
    check_fails(hlm_json_read_list(arena, "f", "[", 1, &foreign_item_table, &list, &err), HLM_INPUT,
                &err, "ends too early");
    hlm_arena_free(arena);
}

static void documentation_lists_every_key_once(void **state)
{
    struct scene *scene = *state;
    const char *text = hlm_json_document(scene->arena, &thing_table);
    assert_non_null(strstr(text, "# hlmplan.thing, version 1\n"));
    assert_non_null(strstr(text, "| `flag` | true or false | required | A flag. |\n"));
    assert_non_null(strstr(text, "| `rate` | a number in [0, 1] | 0 |"));
    assert_non_null(strstr(text, "| `unit` | a string | \"bytes\" |"));
    assert_non_null(strstr(text, "| `color` | one of \"red\", \"green\", \"blue\" | \"green\" |"));
    assert_non_null(strstr(text, "| `moe` | an object: [expert](#expert) | its defaults |"));
    assert_non_null(strstr(text, "When it was made. Not part of the digest."));
    const char *expert = strstr(text, "## expert\n");
    assert_non_null(expert);
    assert_null(strstr(expert + 1, "## expert\n"));
    assert_non_null(strstr(text, "## part\n")); /* refers to itself */
}

static struct hlm_json_foreign *parse_foreign(struct scene *scene, const char *text)
{
    struct hlm_json_foreign *foreign = NULL;
    check_ok(hlm_json_foreign_parse(scene->arena, "config.json", text, strlen(text), &foreign,
                                    &scene->err),
             &scene->err);
    return foreign;
}

static void foreign_values(void **state)
{
    struct scene *scene = *state;
    struct hlm_json_foreign *foreign = parse_foreign(
        scene, "{\"hidden_size\": 4096, \"HIDDEN\": 1, \"eps\": 1e-05, \"tie\": false, \"huge\": "
               "1000000000000000019884624838657, \"act\": \"silu\", \"window\": null, \"x\": {}}");
    int64_t whole = 7;
    double number = 7;
    bool flag = true, found = false;
    const char *word = "?";
    check_ok(hlm_json_foreign_int64(foreign, "hidden_size", 1, 65536, &whole, &found, &scene->err),
             &scene->err);
    assert_true(found && whole == 4096);
    check_ok(hlm_json_foreign_double(foreign, "eps", &number, &found, &scene->err), &scene->err);
    assert_true(found && number == 1e-5);
    check_ok(hlm_json_foreign_bool(foreign, "tie", &flag, &found, &scene->err), &scene->err);
    assert_true(found && !flag);
    check_ok(hlm_json_foreign_string(foreign, "act", &word, &found, &scene->err), &scene->err);
    assert_true(found);
    whole = 7;
    check_ok(hlm_json_foreign_int64(foreign, "window", 1, 9, &whole, &found, &scene->err),
             &scene->err);
    assert_true(!found && whole == 7); /* null */
    found = true;
    check_ok(hlm_json_foreign_int64(foreign, "hidden", 1, 9, &whole, &found, &scene->err),
             &scene->err);
    assert_true(!found && whole == 7); /* other case */
    hlm_json_foreign_free(foreign);
    assert_string_equal(word, "silu"); /* outlives the tree */
}

static void foreign_errors(void **state)
{
    struct scene *scene = *state;
    struct hlm_json_foreign *foreign =
        parse_foreign(scene, "{\"a\": 5, \"b\": \"x\", \"c\": 9007199254740993, \"d\": 1, \"d\": 2,"
                             "\"f\": 2.5, \"g\": 1e999}");
    int64_t whole = 7;
    double number = 7;
    bool flag = true, found = false;
    const char *word = "?";
    check_fails(hlm_json_foreign_int64(foreign, "a", 6, 9, &whole, &found, &scene->err), HLM_INPUT,
                &scene->err, "config.json: $.a: expected a whole number in [6, 9], found 5");
    check_fails(hlm_json_foreign_int64(foreign, "b", 1, 9, &whole, &found, &scene->err), HLM_INPUT,
                &scene->err, "$.b: expected a whole number in [1, 9], found \"x\"");
    check_fails(hlm_json_foreign_int64(foreign, "c", 1, INT64_MAX, &whole, &found, &scene->err),
                HLM_INPUT, &scene->err, "$.c: expected a whole number");
    check_fails(hlm_json_foreign_int64(foreign, "d", 1, 9, &whole, &found, &scene->err), HLM_INPUT,
                &scene->err, "$.d: the key stands there more than once");
    check_fails(hlm_json_foreign_int64(foreign, "f", 0, 9, &whole, &found, &scene->err), HLM_INPUT,
                &scene->err, "found 2.5");
    check_fails(hlm_json_foreign_double(foreign, "g", &number, &found, &scene->err), HLM_INPUT,
                &scene->err, "$.g: expected a number");
    check_fails(hlm_json_foreign_bool(foreign, "a", &flag, &found, &scene->err), HLM_INPUT,
                &scene->err, "$.a: expected true or false, found 5");
    check_fails(hlm_json_foreign_string(foreign, "a", &word, &found, &scene->err), HLM_INPUT,
                &scene->err, "$.a: expected a string, found 5");
    assert_true(whole == 7 && number == 7 && flag && strcmp(word, "?") == 0);
    hlm_json_foreign_free(foreign);
    hlm_json_foreign_free(NULL);

    struct hlm_json_foreign *none = NULL;
    check_fails(hlm_json_foreign_parse(scene->arena, "c", "[]", 2, &none, &scene->err), HLM_INPUT,
                &scene->err, "c: $: expected an object, found an array");
    check_fails(hlm_json_foreign_parse(scene->arena, "c", "{", 1, &none, &scene->err), HLM_INPUT,
                &scene->err, "c: line 1, column");
    assert_null(none);
}

#define scene_test(function) cmocka_unit_test_setup_teardown(function, enter, leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(absent_keys_get_their_defaults),
        scene_test(every_type_is_read),
        scene_test(null_is_absent_for_pointers_and_optional_strings_only),
        scene_test(failure_leaves_the_output_alone),
        scene_test(wrong_types_and_ranges_name_the_path),
        scene_test(lengths_of_arrays_are_checked),
        scene_test(unknown_keys_are_errors_with_a_suggestion),
        scene_test(duplicate_and_missing_keys),
        scene_test(header_is_checked),
        scene_test(syntax_errors_name_line_and_column),
        scene_test(numbers_follow_the_grammar),
        scene_test(numbers_that_cjson_would_misread),
        scene_test(bytes_that_are_no_json),
        scene_test(deep_nesting_is_refused_and_allowed_depth_works),
        scene_test(every_prefix_fails_cleanly),
        scene_test(long_found_values_are_cut),
        scene_test(canonical_text),
        scene_test(written_text_reads_back_to_the_same_bytes),
        scene_test(defaults_can_be_left_out),
        scene_test(digest_ignores_meta_and_nothing_else),
        scene_test(doubles_are_shortest_and_exact),
        scene_test(random_doubles_survive_the_file),
        scene_test(writer_without_a_table),
        scene_test(files_are_read),
        scene_test(kind_of_a_text),
        cmocka_unit_test(lists_of_others_are_read),
        scene_test(documentation_lists_every_key_once),
        scene_test(foreign_values),
        scene_test(foreign_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
