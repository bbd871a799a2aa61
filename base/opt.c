#include "base/opt.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/opt_internal.h"

struct parser {
    struct hlm_arena *arena;
    const struct hlm_command *command;
    int argc;
    const char *const *argv;
    int at; /* next argument */
    void *options;
    bool *seen; /* [num_opts] */
    int num_positionals;
    struct hlm_err *err;
};

const struct hlm_opt *hlm_opt_rows(const struct hlm_command *command)
{
    static const struct hlm_opt none = {.name = NULL};
    return command->opts == NULL ? &none : command->opts;
}

const struct hlm_positional *hlm_opt_positionals(const struct hlm_command *command)
{
    static const struct hlm_positional none = {.name = NULL};
    return command->positionals == NULL ? &none : command->positionals;
}

/* ---- values ---- */

static bool has_range(const struct hlm_opt *opt)
{
    return opt->min != 0 || opt->max != 0;
}

static bool in_range(const struct hlm_opt *opt, double value)
{
    const bool open = opt->max < opt->min;
    return !has_range(opt) || (value >= opt->min && (open || value <= opt->max));
}

static void describe_number(const struct hlm_opt *opt, struct hlm_text *text)
{
    hlm_text_printf(text, "%s", opt->type == HLM_OPT_INT64 ? "a whole number" : "a number");
    if (has_range(opt) && opt->max < opt->min) {
        hlm_text_printf(text, " of at least %.15g", opt->min);
    } else if (has_range(opt)) {
        hlm_text_printf(text, " in [%.15g, %.15g]", opt->min, opt->max);
    }
}

void hlm_opt_describe(const struct hlm_opt *opt, struct hlm_text *text)
{
    switch (opt->type) {
    case HLM_OPT_FLAG:
        hlm_text_printf(text, "no value");
        break;
    case HLM_OPT_INT64:
    case HLM_OPT_DOUBLE:
        describe_number(opt, text);
        break;
    case HLM_OPT_STRING:
    case HLM_OPT_STRINGS:
        hlm_text_printf(text, "a text");
        break;
    case HLM_OPT_ENUM:
        hlm_text_printf(text, "one of ");
        for (int i = 0; opt->enums[i] != NULL; i++) {
            hlm_text_printf(text, "%s%s", i > 0 ? ", " : "", opt->enums[i]);
        }
        break;
    }
}

static bool parse_int64(const char *text, int64_t *out)
{
    if (text[0] == '\0' || strspn(text, "+-0123456789") != strlen(text)) {
        return false;
    }
    char *end = NULL;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return *end == '\0' && errno == 0;
}

/* Decimal only: strtod also takes white space, hexadecimal, "inf" and "nan". */
static bool parse_double(const char *text, double *out)
{
    if (text[0] == '\0' || strspn(text, "+-.0123456789eE") != strlen(text)) {
        return false;
    }
    char *end = NULL;
    *out = strtod(text, &end);
    return *end == '\0' && isfinite(*out);
}

static bool set_enum(const struct hlm_opt *opt, int *target, const char *text)
{
    for (int i = 0; opt->enums[i] != NULL; i++) {
        if (strcmp(opt->enums[i], text) == 0) {
            *target = i;
            return true;
        }
    }
    return false;
}

static void append(struct hlm_arena *arena, struct hlm_strings *strings, const char *text)
{
    const char **items = HLM_ARENA_ARRAY(arena, const char *, strings->count + 1);
    for (int i = 0; i < strings->count; i++) {
        items[i] = strings->items[i];
    }
    items[strings->count] = text;
    *strings = (struct hlm_strings){items, strings->count + 1};
}

/* Puts the text's value into the options struct; false when the option does not take it. */
static bool set_value(struct hlm_arena *arena, const struct hlm_opt *opt, void *options,
                      const char *text)
{
    void *target = (char *)options + opt->offset;
    int64_t whole = 0;
    double number = 0;
    switch (opt->type) {
    case HLM_OPT_FLAG:
        *(bool *)target = true;
        return true;
    case HLM_OPT_INT64:
        if (!parse_int64(text, &whole) || !in_range(opt, (double)whole)) {
            return false;
        }
        *(int64_t *)target = whole;
        return true;
    case HLM_OPT_DOUBLE:
        if (!parse_double(text, &number) || !in_range(opt, number)) {
            return false;
        }
        *(double *)target = number;
        return true;
    case HLM_OPT_STRING:
        *(const char **)target = text;
        return true;
    case HLM_OPT_STRINGS:
        append(arena, target, text);
        return true;
    case HLM_OPT_ENUM:
        return set_enum(opt, target, text);
    }
    return false;
}

static void set_defaults(struct hlm_arena *arena, const struct hlm_command *command, void *options)
{
    memset(options, 0, command->options_size);
    for (const struct hlm_opt *opt = hlm_opt_rows(command); opt->name != NULL; opt++) {
        if (opt->def != NULL) {
            const bool taken = set_value(arena, opt, options, opt->def);
            HLM_ASSERT(taken);
        }
    }
}

/* ---- arguments ---- */

static bool looks_like_option(const char *text)
{
    const bool number = text[0] == '-' && (text[1] == '.' || (text[1] >= '0' && text[1] <= '9'));
    return text[0] == '-' && text[1] != '\0' && !number;
}

static enum hlm_status fail_value(const struct parser *parser, const struct hlm_opt *opt,
                                  const char *text)
{
    struct hlm_text expected;
    hlm_text_init(&expected, parser->arena);
    hlm_opt_describe(opt, &expected);
    hlm_text_printf(&expected, ", found \"%s\"", text);
    const char *nearest = opt->type == HLM_OPT_ENUM ? hlm_opt_nearest(text, opt->enums) : NULL;
    if (nearest != NULL) {
        hlm_text_printf(&expected, " (did you mean \"%s\"?)", nearest);
    }
    return hlm_fail(parser->err, HLM_USAGE, "--%s: expected %s", opt->name, expected.text);
}

static enum hlm_status take_value(struct parser *parser, const struct hlm_opt *opt,
                                  const char *text)
{
    if (!set_value(parser->arena, opt, parser->options, text)) {
        return fail_value(parser, opt, text);
    }
    return HLM_OK;
}

/* The values that follow the option's name; `inline_value` is what stood behind "=", or NULL. */
static enum hlm_status take_values(struct parser *parser, const struct hlm_opt *opt,
                                   const char *inline_value)
{
    if (opt->type == HLM_OPT_FLAG) {
        return inline_value == NULL ? take_value(parser, opt, "")
                                    : fail_value(parser, opt, inline_value);
    }
    if (inline_value != NULL) {
        return take_value(parser, opt, inline_value);
    }
    if (parser->at == parser->argc || looks_like_option(parser->argv[parser->at])) {
        return hlm_fail(parser->err, HLM_USAGE, "--%s: expected a value (%s), found none",
                        opt->name, opt->arg == NULL ? "VALUE" : opt->arg);
    }
    do {
        HLM_TRY(take_value(parser, opt, parser->argv[parser->at++]));
    } while (opt->type == HLM_OPT_STRINGS && parser->at < parser->argc &&
             !looks_like_option(parser->argv[parser->at]));
    return HLM_OK;
}

static enum hlm_status fail_unknown(const struct parser *parser, const char *text, size_t length)
{
    const struct hlm_opt *opts = hlm_opt_rows(parser->command);
    int num = 0;
    while (opts[num].name != NULL) {
        num++;
    }
    const char **names = HLM_ARENA_ARRAY(parser->arena, const char *, num + 1);
    for (int i = 0; i < num; i++) {
        names[i] = opts[i].name;
    }
    const char *word = hlm_arena_strndup(parser->arena, text, length);
    const char *nearest = hlm_opt_nearest(word + strspn(word, "-"), names);
    if (nearest == NULL) {
        return hlm_fail(parser->err, HLM_USAGE, "unknown option %s", word);
    }
    return hlm_fail(parser->err, HLM_USAGE, "unknown option %s (did you mean --%s?)", word,
                    nearest);
}

static const struct hlm_opt *find_option(const struct hlm_command *command, const char *text,
                                         size_t length)
{
    for (const struct hlm_opt *opt = hlm_opt_rows(command); opt->name != NULL; opt++) {
        const bool by_name = length > 2 && text[1] == '-' && strlen(opt->name) == length - 2 &&
                             memcmp(opt->name, text + 2, length - 2) == 0;
        const bool by_letter = length == 2 && opt->letter != '\0' && text[1] == opt->letter;
        if (by_name || by_letter) {
            return opt;
        }
    }
    return NULL;
}

static enum hlm_status take_option(struct parser *parser, const char *text)
{
    const size_t length = strcspn(text, "=");
    const char *inline_value = text[length] == '=' ? text + length + 1 : NULL;
    const struct hlm_opt *opt = find_option(parser->command, text, length);
    if (opt == NULL) {
        return fail_unknown(parser, text, length);
    }
    bool *seen = &parser->seen[opt - hlm_opt_rows(parser->command)];
    if (*seen && opt->type != HLM_OPT_STRINGS) {
        return hlm_fail(parser->err, HLM_USAGE, "--%s: expected once, found again", opt->name);
    }
    if (!*seen && opt->type == HLM_OPT_STRINGS) {
        /* What is given replaces the default. */
        *(struct hlm_strings *)((char *)parser->options + opt->offset) = (struct hlm_strings){0};
    }
    *seen = true;
    return take_values(parser, opt, inline_value);
}

static enum hlm_status take_positional(struct parser *parser, const char *text)
{
    const struct hlm_positional *positional =
        &hlm_opt_positionals(parser->command)[parser->num_positionals];
    if (positional->name == NULL) {
        return hlm_fail(parser->err, HLM_USAGE, "%s takes %s arguments, found \"%s\"",
                        parser->command->name, parser->num_positionals == 0 ? "no" : "no more",
                        text);
    }
    *(const char **)((char *)parser->options + positional->offset) = text;
    parser->num_positionals++;
    return HLM_OK;
}

static enum hlm_status check_required(const struct parser *parser)
{
    const struct hlm_command *command = parser->command;
    for (int i = 0; hlm_opt_rows(command)[i].name != NULL; i++) {
        const struct hlm_opt *opt = &hlm_opt_rows(command)[i];
        if (opt->required && !parser->seen[i]) {
            return hlm_fail(parser->err, HLM_USAGE, "%s needs --%s %s: %s", command->name,
                            opt->name, opt->arg == NULL ? "VALUE" : opt->arg, opt->help);
        }
    }
    const struct hlm_positional *next = &hlm_opt_positionals(command)[parser->num_positionals];
    for (; next->name != NULL; next++) {
        if (next->required) {
            return hlm_fail(parser->err, HLM_USAGE, "%s needs the argument %s: %s", command->name,
                            next->name, next->help);
        }
    }
    return HLM_OK;
}

static bool asks_for_help(int argc, const char *const *argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return true;
        }
    }
    return false;
}

enum hlm_status hlm_opt_parse(struct hlm_arena *arena, const struct hlm_command *command, int argc,
                              const char *const *argv, void *options, bool *out_help,
                              struct hlm_err *err)
{
    int num_opts = 0;
    while (hlm_opt_rows(command)[num_opts].name != NULL) {
        num_opts++;
    }
    set_defaults(arena, command, options);
    *out_help = asks_for_help(argc, argv);
    if (*out_help) {
        return HLM_OK;
    }
    struct parser parser = {arena, command, argc, argv, 0, options, NULL, 0, err};
    parser.seen = HLM_ARENA_ARRAY(arena, bool, num_opts);
    bool options_end = false;
    while (parser.at < argc) {
        const char *text = argv[parser.at++];
        if (!options_end && strcmp(text, "--") == 0) {
            options_end = true;
        } else if (!options_end && looks_like_option(text)) {
            HLM_TRY(take_option(&parser, text));
        } else {
            HLM_TRY(take_positional(&parser, text));
        }
    }
    return check_required(&parser);
}

/* ---- pairs ---- */

static int count_pieces(const char *text)
{
    int num = text[0] == '\0' ? 0 : 1;
    for (const char *c = text; *c != '\0'; c++) {
        num += *c == ',';
    }
    return num;
}

enum hlm_status hlm_opt_pairs(struct hlm_arena *arena, const char *option, const char *text,
                              const struct hlm_pair **out, int *out_num, struct hlm_err *err)
{
    const int num = count_pieces(text);
    struct hlm_pair *pairs = HLM_ARENA_ARRAY(arena, struct hlm_pair, num);
    const char *rest = text;
    for (int i = 0; i < num; i++) {
        const size_t length = strcspn(rest, ","), key_length = strcspn(rest, "=,");
        if (key_length == 0 || key_length == length) {
            return hlm_fail(err, HLM_USAGE,
                            "--%s: expected key=value,key=value,..., found \"%.*s\" in \"%s\"",
                            option, (int)length, rest, text);
        }
        pairs[i].key = hlm_arena_strndup(arena, rest, key_length);
        pairs[i].value = hlm_arena_strndup(arena, rest + key_length + 1, length - key_length - 1);
        for (int k = 0; k < i; k++) {
            if (strcmp(pairs[k].key, pairs[i].key) == 0) {
                return hlm_fail(err, HLM_USAGE, "--%s: the key \"%s\" stands there twice in \"%s\"",
                                option, pairs[i].key, text);
            }
        }
        rest += length + (rest[length] == ',');
    }
    *out = pairs;
    *out_num = num;
    return HLM_OK;
}
