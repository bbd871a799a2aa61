#include <stdlib.h>

#include "base/opt.h"
#include "tests/support/check.h"

static const char *const dtypes[] = {"auto", "bf16", "fp16", "fp32", NULL};

struct options {
    bool json;
    int64_t batch, top;
    double gap;
    const char *output, *model, *plan, *measured;
    struct hlm_strings clusters, set;
    int dtype;
};

static enum hlm_status run_nothing(struct hlm_arena *arena, const void *options,
                                   struct hlm_err *err)
{
    (void)arena;
    (void)options;
    return hlm_fail(err, HLM_FAILED, "not run in this test");
}

#define AT(member) offsetof(struct options, member)

static const struct hlm_opt opts[] = {
    {"model", 'm', HLM_OPT_STRING, AT(model), NULL, "MODEL", "What to train.", .required = true},
    {"batch", 0, HLM_OPT_INT64, AT(batch), "8", "N", "Sequences per step.", .min = 1, .max = 4096},
    {"top", 0, HLM_OPT_INT64, AT(top), NULL, "K", "Runners-up.", .min = 1},
    {"max-gap", 0, HLM_OPT_DOUBLE, AT(gap), "0.01", "F", "Proven gap.", .min = 0, .max = 1},
    {"output", 'o', HLM_OPT_STRING, AT(output), "plan.json", "FILE",
     .help = "Where the plan goes."},
    {"cluster", 'c', HLM_OPT_STRINGS, AT(clusters), NULL, "CLUSTER",
     .help = "Machines; several make a "
             "table with a row for each of them, which takes the time of a search for each."},
    {"set", 0, HLM_OPT_STRINGS, AT(set), "tp=1", "K=V", .help = "Degrees."},
    {"dtype", 0, HLM_OPT_ENUM, AT(dtype), "auto", "DTYPE", "Number format.", .enums = dtypes},
    {"json", 0, HLM_OPT_FLAG, AT(json), NULL, NULL, .help = "Print the plan | as JSON."},
    {.name = NULL}};
static const struct hlm_positional positionals[] = {
    {"plan.json", AT(plan), true, "The plan."},
    {"measured.json", AT(measured), false, "What was measured."},
    {.name = NULL}};
static const struct hlm_command commands[] = {
    {"compare", "compare things", ".starts with a dot\nand has a \\ backslash.",
     "hlmplan compare plan.json", opts, positionals, sizeof(struct options), run_nothing},
    {"list", "list built-in names", "Lists what is built in.", NULL, NULL, NULL,
     sizeof(struct options), run_nothing},
    {.name = NULL}};

struct scene {
    struct hlm_arena *arena;
    struct hlm_err err;
    struct options options;
    bool help;
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

/* Splits at blanks and parses. */
static enum hlm_status parse_with(struct scene *scene, const struct hlm_command *command,
                                  const char *line)
{
    const char *argv[32];
    int argc = 0;
    char *rest = hlm_arena_strdup(scene->arena, line);
    for (char *word; (word = strtok_r(NULL, " ", &rest)) != NULL;) {
        argv[argc++] = word;
    }
    return hlm_opt_parse(scene->arena, command, argc, argv, &scene->options, &scene->help,
                         &scene->err);
}

static enum hlm_status parse(struct scene *scene, const char *line)
{
    return parse_with(scene, &commands[0], line);
}

#define check_usage(scene, line, part)                                                             \
    check_fails(parse((scene), (line)), HLM_USAGE, &(scene)->err, (part))

static void defaults(void **state)
{
    struct scene *scene = *state;
    memset(&scene->options, 0x55, sizeof scene->options);
    check_ok(parse(scene, "--model gpt2 a.json"), &scene->err);
    const struct options *options = &scene->options;
    assert_string_equal(options->model, "gpt2");
    assert_string_equal(options->plan, "a.json");
    assert_null(options->measured);
    assert_false(options->json);
    assert_int_equal(options->batch, 8);
    assert_int_equal(options->top, 0);
    assert_true(options->gap == 0.01);
    assert_string_equal(options->output, "plan.json");
    assert_int_equal(options->clusters.count, 0);
    assert_int_equal(options->set.count, 1);
    assert_string_equal(options->set.items[0], "tp=1");
    assert_int_equal(options->dtype, 0);
}

static void all_forms_of_a_value(void **state)
{
    struct scene *scene = *state;
    check_ok(parse(scene, "a.json --model=x=y -o - --batch 12 --max-gap=1e-2 --json b.json "
                          "--dtype fp16 --set tp=2 pp=4 --cluster a --cluster b c --top +3"),
             &scene->err);
    const struct options *options = &scene->options;
    assert_string_equal(options->model, "x=y");
    assert_string_equal(options->output, "-");
    assert_int_equal(options->batch, 12);
    assert_true(options->gap == 0.01);
    assert_true(options->json);
    assert_int_equal(options->dtype, 2);
    assert_string_equal(options->measured, "b.json");
    assert_int_equal(options->set.count, 2); /* instead of the default */
    assert_string_equal(options->set.items[1], "pp=4");
    assert_int_equal(options->clusters.count, 3);
    assert_string_equal(options->clusters.items[2], "c");
    assert_int_equal(options->top, 3);
}

static void two_dashes_end_the_options(void **state)
{
    struct scene *scene = *state;
    check_ok(parse(scene, "-m x -- --json --help"), &scene->err);
    assert_string_equal(scene->options.plan, "--json");
    assert_string_equal(scene->options.measured, "--help");
    assert_false(scene->options.json || scene->help);
}

static void help_comes_before_every_check(void **state)
{
    struct scene *scene = *state;
    check_ok(parse(scene, "--nonsense --batch x --help"), &scene->err);
    assert_true(scene->help);
    check_ok(parse(scene, "-h"), &scene->err);
    assert_true(scene->help);
    check_ok(parse(scene, "-m x a"), &scene->err);
    assert_false(scene->help);
}

static void bad_numbers(void **state)
{
    struct scene *scene = *state;
    check_usage(scene, "--batch 0", "--batch: expected a whole number in [1, 4096], found \"0\"");
    check_usage(scene, "--batch -5", "found \"-5\"");
    check_usage(scene, "--batch 8x", "found \"8x\"");
    check_usage(scene, "--batch 1.5", "found \"1.5\"");
    check_usage(scene, "--batch 99999999999999999999", "found \"99999999999999999999\"");
    check_usage(scene, "--batch=", "found \"\"");
    check_usage(scene, "--top 0", "--top: expected a whole number of at least 1, found \"0\"");
    check_usage(scene, "--max-gap 2", "--max-gap: expected a number in [0, 1], found \"2\"");
    static const char *const bad[] = {"nan", "inf", "0x1", "1e999", "1,5", "e"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        check_usage(scene, hlm_arena_printf(scene->arena, "--max-gap %s", bad[i]),
                    hlm_arena_printf(scene->arena, "found \"%s\"", bad[i]));
    }
}

static void bad_words(void **state)
{
    struct scene *scene = *state;
    check_usage(scene, "--dtype bf61",
                "--dtype: expected one of auto, bf16, fp16, fp32, found "
                "\"bf61\" (did you mean \"bf16\"?)");
    check_usage(scene, "--modle x", "unknown option --modle (did you mean --model?)");
    check_usage(scene, "--btach=3", "unknown option --btach (did you mean --batch?)");
    check_usage(scene, "--qqqqqqqqq", "unknown option --qqqqqqqqq");
    assert_null(strstr(scene->err.text, "mean"));
    check_usage(scene, "-x", "unknown option -x");
    check_usage(scene, "--model", "--model: expected a value (MODEL), found none");
    check_usage(scene, "--model --json", "--model: expected a value (MODEL), found none");
    check_usage(scene, "--json=yes", "--json: expected no value, found \"yes\"");
    check_usage(scene, "--model a --model b", "--model: expected once, found again");
    check_usage(scene, "--json --json", "--json: expected once");
}

static void missing_and_surplus_arguments(void **state)
{
    struct scene *scene = *state;
    check_usage(scene, "a.json", "compare needs --model MODEL: What to train.");
    check_usage(scene, "--model x", "compare needs the argument plan.json: The plan.");
    check_usage(scene, "--model x a b c", "compare takes no more arguments, found \"c\"");
    check_fails(parse_with(scene, &commands[1], "x"), HLM_USAGE, &scene->err,
                "list takes no arguments, found \"x\"");
    check_ok(parse_with(scene, &commands[1], ""), &scene->err);
}

/* What a printing function writes. */
static const char *captured(struct scene *scene, void (*print)(FILE *out))
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    print(out);
    fclose(out);
    const char *copy = hlm_arena_strdup(scene->arena, text);
    free(text);
    return copy;
}

static void print_help(FILE *out)
{
    hlm_opt_help(out, "hlmplan", &commands[0]);
}

static void print_list_help(FILE *out)
{
    hlm_opt_help(out, "hlmplan", &commands[1]);
}

static void print_overview(FILE *out)
{
    hlm_opt_overview(out, "hlmplan", "plans training", commands);
}

static void print_man(FILE *out)
{
    hlm_opt_man(out, "hlmplan", "plans training", commands);
}

static void print_markdown(FILE *out)
{
    hlm_opt_markdown(out, "hlmplan", commands);
}

static void help_shows_every_row(void **state)
{
    struct scene *scene = *state;
    assert_string_equal(
        captured(scene, print_help),
        "usage: hlmplan compare --model MODEL [options] plan.json [measured.json]\n"
        "\n"
        ".starts with a dot\n"
        "and has a \\ backslash.\n"
        "\n"
        "arguments:\n"
        "  plan.json               The plan.\n"
        "  measured.json           What was measured.\n"
        "\n"
        "options:\n"
        "  -m, --model MODEL       What to train. (required)\n"
        "      --batch N           Sequences per step. (a whole number in [1, 4096];\n"
        "                          default 8)\n"
        "      --top K             Runners-up. (a whole number of at least 1)\n"
        "      --max-gap F         Proven gap. (a number in [0, 1]; default 0.01)\n"
        "  -o, --output FILE       Where the plan goes. (default plan.json)\n"
        "  -c, --cluster CLUSTER...\n"
        "                          Machines; several make a table with a row for each of\n"
        "                          them, which takes the time of a search for each.\n"
        "      --set K=V...        Degrees. (default tp=1)\n"
        "      --dtype DTYPE       Number format. (one of auto, bf16, fp16, fp32; default\n"
        "                          auto)\n"
        "      --json              Print the plan | as JSON.\n"
        "  -h, --help              Print this help.\n"
        "\n"
        "example:\n"
        "  hlmplan compare plan.json\n");
    assert_string_equal(captured(scene, print_list_help), "usage: hlmplan list\n"
                                                          "\n"
                                                          "Lists what is built in.\n"
                                                          "\n"
                                                          "options:\n"
                                                          "  -h, --help              Print this "
                                                          "help.\n");
}

static void overview_shows_every_command(void **state)
{
    struct scene *scene = *state;
    assert_string_equal(captured(scene, print_overview),
                        "hlmplan: plans training\n\nusage: hlmplan <command> [options]\n\n"
                        "commands:\n"
                        "  compare      compare things\n"
                        "  list         list built-in names\n"
                        "\n\"hlmplan <command> --help\" explains a command.\n");
}

static void man_page_is_escaped(void **state)
{
    struct scene *scene = *state;
    const char *text = captured(scene, print_man);
    assert_memory_equal(text, ".TH \"hlmplan\" 1\n", 16);
    assert_non_null(strstr(text, "\n\\&.starts with a dot\nand has a \\e backslash.\n"));
    assert_non_null(strstr(text, "\\fB\\-m, \\-\\-model MODEL\\fR\n"));
    assert_non_null(strstr(text, "\\fB3\\fR\nbad input\n"));
}

static void markdown_is_escaped(void **state)
{
    struct scene *scene = *state;
    const char *text = captured(scene, print_markdown);
    assert_non_null(strstr(text, "### hlmplan compare\n"));
    assert_non_null(strstr(text, "| `-m, --model MODEL` | What to train. (required) |\n"));
    assert_non_null(strstr(text, "| `--json` | Print the plan \\| as JSON. |\n"));
    assert_non_null(strstr(text, "### hlmplan list\n"));
}

static void nearest_text(void **state)
{
    (void)state;
    static const char *const texts[] = {"schedule", "microbatch_size", "tp", "pp", "zero", NULL};
    assert_string_equal(hlm_opt_nearest("shedule", texts), "schedule");
    assert_string_equal(hlm_opt_nearest("microbatchsize", texts), "microbatch_size");
    assert_string_equal(hlm_opt_nearest("pt", texts), "tp"); /* neighbours swapped */
    assert_string_equal(hlm_opt_nearest("zero", texts), "zero");
    assert_null(hlm_opt_nearest("banana", texts));
    assert_null(hlm_opt_nearest("", texts));
    char long_word[500];
    memset(long_word, 'x', sizeof long_word);
    long_word[sizeof long_word - 1] = '\0';
    assert_null(hlm_opt_nearest(long_word, texts));
}

static void pairs(void **state)
{
    struct scene *scene = *state;
    const struct hlm_pair *out = NULL;
    int num = 0;
    check_ok(
        hlm_opt_pairs(scene->arena, "set", "tp=8,schedule=1f1b,x=a=b,y=", &out, &num, &scene->err),
        &scene->err);
    assert_int_equal(num, 4);
    assert_string_equal(out[0].key, "tp");
    assert_string_equal(out[0].value, "8");
    assert_string_equal(out[1].value, "1f1b");
    assert_string_equal(out[2].value, "a=b");
    assert_string_equal(out[3].value, "");
    check_ok(hlm_opt_pairs(scene->arena, "set", "", &out, &num, &scene->err), &scene->err);
    assert_int_equal(num, 0);
}

static void bad_pairs(void **state)
{
    struct scene *scene = *state;
    const struct hlm_pair *out = NULL;
    int num = 7;
    static const char *const bad[] = {"tp", "tp=1,pp", "=1", "tp=1,", ",tp=1", "tp=1,,pp=2"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        check_fails(hlm_opt_pairs(scene->arena, "set", bad[i], &out, &num, &scene->err), HLM_USAGE,
                    &scene->err, "--set: expected key=value");
    }
    check_fails(hlm_opt_pairs(scene->arena, "set", "tp=1,pp=2,tp=1", &out, &num, &scene->err),
                HLM_USAGE, &scene->err, "--set: the key \"tp\" stands there twice");
    assert_null(out);
    assert_int_equal(num, 7);
}

#define scene_test(function) cmocka_unit_test_setup_teardown(function, enter, leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(defaults),
        scene_test(all_forms_of_a_value),
        scene_test(two_dashes_end_the_options),
        scene_test(help_comes_before_every_check),
        scene_test(bad_numbers),
        scene_test(bad_words),
        scene_test(missing_and_surplus_arguments),
        scene_test(help_shows_every_row),
        scene_test(overview_shows_every_command),
        scene_test(man_page_is_escaped),
        scene_test(markdown_is_escaped),
        cmocka_unit_test(nearest_text),
        scene_test(pairs),
        scene_test(bad_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
