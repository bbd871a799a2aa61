#include <string.h>

#include "base/opt_internal.h"

enum { LINE_WIDTH = 80, HELP_COLUMN = 26 };

/* ---- pieces ---- */

static const char *arg_name(const struct hlm_opt *opt)
{
    return opt->arg == NULL ? "VALUE" : opt->arg;
}

/* "-o, --output FILE"; without a letter `no_letter` stands in its place. */
static void add_synopsis(struct hlm_text *text, const struct hlm_opt *opt, const char *no_letter)
{
    if (opt->letter != '\0') {
        hlm_text_printf(text, "-%c, ", opt->letter);
    } else {
        hlm_text_printf(text, "%s", no_letter);
    }
    hlm_text_printf(text, "--%s", opt->name);
    if (opt->type != HLM_OPT_FLAG) {
        hlm_text_printf(text, " %s%s", arg_name(opt), opt->type == HLM_OPT_STRINGS ? "..." : "");
    }
}

/* The help sentence with what only the table knows: choices, range, default. */
static void add_explanation(struct hlm_text *text, const struct hlm_opt *opt)
{
    hlm_text_printf(text, "%s", opt->help);
    const char *open = " (", *close = "";
    if (opt->type == HLM_OPT_ENUM || opt->min != 0 || opt->max != 0) {
        hlm_text_printf(text, "%s", open);
        hlm_opt_describe(opt, text);
        open = "; ";
        close = ")";
    }
    if (opt->required) {
        hlm_text_printf(text, "%srequired", open);
        close = ")";
    } else if (opt->def != NULL) {
        hlm_text_printf(text, "%sdefault %s", open, opt->def);
        close = ")";
    }
    hlm_text_printf(text, "%s", close);
}

/* "hlmplan plan [options] plan.json [measured.json]" */
static void add_usage(struct hlm_text *text, const char *program, const struct hlm_command *command)
{
    hlm_text_printf(text, "%s %s", program, command->name);
    for (const struct hlm_opt *opt = hlm_opt_rows(command); opt->name != NULL; opt++) {
        if (opt->required) {
            hlm_text_printf(text, " --%s %s", opt->name, arg_name(opt));
        }
    }
    if (hlm_opt_rows(command)[0].name != NULL) {
        hlm_text_printf(text, " [options]");
    }
    const struct hlm_positional *positional = hlm_opt_positionals(command);
    for (; positional->name != NULL; positional++) {
        hlm_text_printf(text, positional->required ? " %s" : " [%s]", positional->name);
    }
}

/* Prints words up to LINE_WIDTH, each line indented by `indent`; the cursor stands at `column`. A
 * line break of the text stays one. */
static void print_wrapped(FILE *out, const char *text, int indent, int column)
{
    const char *word = text;
    bool at_start = true;
    while (*word != '\0') {
        if (*word == '\n') {
            fputc('\n', out);
            column = 0;
            at_start = true;
            word++;
            continue;
        }
        const int length = (int)strcspn(word, " \n");
        if (!at_start && column + 1 + length > LINE_WIDTH) {
            fputc('\n', out);
            column = 0;
            at_start = true;
        }
        const int spaces = at_start ? (column < indent ? indent - column : 0) : 1;
        fprintf(out, "%*s%.*s", spaces, "", length, word);
        column += spaces + length;
        at_start = false;
        word += length;
        word += strspn(word, " ");
    }
    fputc('\n', out);
}

/* ---- help ---- */

static void print_row(FILE *out, const char *left, const char *right)
{
    int column = fprintf(out, "  %s", left);
    if (column + 2 > HELP_COLUMN) {
        fputc('\n', out);
        column = 0;
    }
    print_wrapped(out, right, HELP_COLUMN, column);
}

static void print_option(FILE *out, struct hlm_arena *arena, const struct hlm_opt *opt)
{
    struct hlm_text left, right;
    hlm_text_init(&left, arena);
    hlm_text_init(&right, arena);
    add_synopsis(&left, opt, "    ");
    add_explanation(&right, opt);
    print_row(out, left.text, right.text);
}

void hlm_opt_help(FILE *out, const char *program, const struct hlm_command *command)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_text usage;
    hlm_text_init(&usage, arena);
    add_usage(&usage, program, command);
    fprintf(out, "usage: %s\n\n", usage.text);
    print_wrapped(out, command->description, 0, 0);

    if (hlm_opt_positionals(command)[0].name != NULL) {
        fprintf(out, "\narguments:\n");
    }
    const struct hlm_positional *positional = hlm_opt_positionals(command);
    for (; positional->name != NULL; positional++) {
        print_row(out, positional->name, positional->help);
    }
    fprintf(out, "\noptions:\n");
    for (const struct hlm_opt *opt = hlm_opt_rows(command); opt->name != NULL; opt++) {
        print_option(out, arena, opt);
    }
    print_row(out, "-h, --help", "Print this help.");
    if (command->example != NULL) {
        fprintf(out, "\nexample:\n  %s\n", command->example);
    }
    hlm_arena_free(arena);
}

void hlm_opt_overview(FILE *out, const char *program, const char *tagline,
                      const struct hlm_command *commands)
{
    fprintf(out, "%s: %s\n\nusage: %s <command> [options]\n\ncommands:\n", program, tagline,
            program);
    for (const struct hlm_command *command = commands; command->name != NULL; command++) {
        fprintf(out, "  %-12s ", command->name);
        print_wrapped(out, command->summary, 15, 15);
    }
    fprintf(out, "\n\"%s <command> --help\" explains a command.\n", program);
}

/* ---- man page ---- */

/* In troff a backslash starts an escape, a bare hyphen may become a typographic one (which can't be
 * copied into a shell), and a line that starts with a dot or an apostrophe is a request. */
static void print_troff(FILE *out, const char *text)
{
    bool line_start = true;
    for (const char *c = text; *c != '\0'; c++) {
        if (line_start && (*c == '.' || *c == '\'')) {
            fputs("\\&", out);
        }
        line_start = *c == '\n';
        if (*c == '\\') {
            fputs("\\e", out);
        } else if (*c == '-') {
            fputs("\\-", out);
        } else {
            fputc(*c, out);
        }
    }
}

static void print_troff_entry(FILE *out, const char *term, const char *text)
{
    fputs(".TP\n\\fB", out);
    print_troff(out, term);
    fputs("\\fR\n", out);
    print_troff(out, text);
    fputc('\n', out);
}

static void print_man_command(FILE *out, struct hlm_arena *arena, const char *program,
                              const struct hlm_command *command)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    add_usage(&text, program, command);
    fputs(".SS \"", out);
    print_troff(out, text.text);
    fputs("\"\n", out);
    print_troff(out, command->description);
    fputc('\n', out);
    const struct hlm_positional *positional = hlm_opt_positionals(command);
    for (; positional->name != NULL; positional++) {
        print_troff_entry(out, positional->name, positional->help);
    }
    for (const struct hlm_opt *opt = hlm_opt_rows(command); opt->name != NULL; opt++) {
        struct hlm_text term, explanation;
        hlm_text_init(&term, arena);
        hlm_text_init(&explanation, arena);
        add_synopsis(&term, opt, "");
        add_explanation(&explanation, opt);
        print_troff_entry(out, term.text, explanation.text);
    }
    if (command->example != NULL) {
        fputs(".PP\nExample:\n.PP\n.nf\n.RS\n", out);
        print_troff(out, command->example);
        fputs("\n.RE\n.fi\n", out);
    }
}

void hlm_opt_man(FILE *out, const char *program, const char *tagline,
                 const struct hlm_command *commands)
{
    struct hlm_arena *arena = hlm_arena_new();
    fputs(".TH \"", out);
    print_troff(out, program);
    fputs("\" 1\n.SH NAME\n", out);
    print_troff(out, program);
    fputs(" \\- ", out);
    print_troff(out, tagline);
    fprintf(out, "\n.SH SYNOPSIS\n.B %s\n.I command\n[options]\n.SH COMMANDS\n", program);
    for (const struct hlm_command *command = commands; command->name != NULL; command++) {
        print_man_command(out, arena, program, command);
    }
    fputs(".SH EXIT STATUS\n", out);
#define PRINT_STATUS(name, code, text) print_troff_entry(out, #code, text);
    HLM_STATUS_MAP(PRINT_STATUS)
#undef PRINT_STATUS
    hlm_arena_free(arena);
}

/* ---- Markdown ---- */

/* A bar would end the table's cell. */
static void print_cell(FILE *out, const char *text)
{
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '|') {
            fputc('\\', out);
        }
        fputc(*c == '\n' ? ' ' : *c, out);
    }
}

static void print_markdown_row(FILE *out, const char *left, const char *right)
{
    fputs("| `", out);
    print_cell(out, left);
    fputs("` | ", out);
    print_cell(out, right);
    fputs(" |\n", out);
}

void hlm_opt_markdown(FILE *out, const char *program, const struct hlm_command *commands)
{
    struct hlm_arena *arena = hlm_arena_new();
    for (const struct hlm_command *command = commands; command->name != NULL; command++) {
        struct hlm_text usage;
        hlm_text_init(&usage, arena);
        add_usage(&usage, program, command);
        fprintf(out, "### %s %s\n\n```\n%s\n```\n\n%s\n", program, command->name, usage.text,
                command->description);
        if (hlm_opt_rows(command)[0].name != NULL || hlm_opt_positionals(command)[0].name != NULL) {
            fputs("\n| option | meaning |\n|---|---|\n", out);
        }
        const struct hlm_positional *positional = hlm_opt_positionals(command);
        for (; positional->name != NULL; positional++) {
            print_markdown_row(out, positional->name, positional->help);
        }
        for (const struct hlm_opt *opt = hlm_opt_rows(command); opt->name != NULL; opt++) {
            struct hlm_text left, right;
            hlm_text_init(&left, arena);
            hlm_text_init(&right, arena);
            add_synopsis(&left, opt, "");
            add_explanation(&right, opt);
            print_markdown_row(out, left.text, right.text);
        }
        if (command->example != NULL) {
            fprintf(out, "\n```\n%s\n```\n", command->example);
        }
        fputc('\n', out);
    }
    hlm_arena_free(arena);
}
