/* opt: command-line options as tables.
 *
 * One row per option gives parsing, default, range, help, man page and README section. A command is
 * a row too (name, one-line summary, options, positional arguments, function). Texts on the command
 * line are `--name value` or `--name=value`; a bool is `--name` alone; `--` ends options; an option
 * may be given once, a HLM_OPT_STRINGS one many times or several values in a row (all up to the
 * next option; they replace the default). A value that starts with a dash and is no number needs
 * the form with "=". Everything that is wrong is HLM_USAGE with a message that names the option,
 * what was expected and what was found, and for an unknown name the nearest known one.
 */
#ifndef HLM_BASE_OPT_H
#define HLM_BASE_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/err.h"

enum hlm_opt_type {
    HLM_OPT_FLAG,    /* bool */
    HLM_OPT_INT64,   /* int64_t */
    HLM_OPT_DOUBLE,  /* double */
    HLM_OPT_STRING,  /* const char *, NULL when not given and no default */
    HLM_OPT_STRINGS, /* struct hlm_strings */
    HLM_OPT_ENUM     /* int, text by `enums` */
};

struct hlm_strings {
    const char *const *items;
    int count;
};

struct hlm_opt {
    const char *name; /* without "--" */
    char letter;      /* short form, 0: none */
    enum hlm_opt_type type;
    size_t offset;    /* of the target in the options struct */
    const char *def;  /* default as text; NULL: none (0, NULL) */
    const char *arg;  /* how help calls the value: "MODEL", "N" */
    const char *help; /* one sentence */
    double min, max;  /* inclusive range of numbers; both 0: none; max < min: no upper one */
    bool required;
    const char *const *enums; /* ends with NULL */
};

struct hlm_positional {
    const char *name; /* "plan.json" */
    size_t offset;    /* const char * in the options struct */
    bool required;
    const char *help;
};

struct hlm_command {
    const char *name;
    const char *summary;                      /* one line */
    const char *description;                  /* a paragraph or two, for --help */
    const char *example;                      /* a command line with its purpose */
    const struct hlm_opt *opts;               /* ends with a row whose name is NULL; NULL: none */
    const struct hlm_positional *positionals; /* ends with a row whose name is NULL; NULL: none */
    size_t options_size;                      /* of the options struct */
    enum hlm_status (*run)(struct hlm_arena *arena, const void *options, struct hlm_err *err);
};

/* Parses argv[0..argc-1] (what follows the command's name) into *options (options_size bytes, set
 * to the defaults first). *out_help is set when --help or -h was given; nothing else is checked
 * then. */
HLM_MUST_CHECK enum hlm_status hlm_opt_parse(struct hlm_arena *arena,
                                             const struct hlm_command *command, int argc,
                                             const char *const *argv, void *options, bool *out_help,
                                             struct hlm_err *err);

/* The help of one command, of the program (`commands` ends with a row whose name is NULL), the man
 * page (troff) and the README section (Markdown). */
void hlm_opt_help(FILE *out, const char *program, const struct hlm_command *command);
void hlm_opt_overview(FILE *out, const char *program, const char *tagline,
                      const struct hlm_command *commands);
void hlm_opt_man(FILE *out, const char *program, const char *tagline,
                 const struct hlm_command *commands);
void hlm_opt_markdown(FILE *out, const char *program, const struct hlm_command *commands);

/* The text of `texts` (ends with NULL) nearest to `word` by edit distance, or NULL when none is
 * near. */
const char *hlm_opt_nearest(const char *word, const char *const *texts);

/* "tp=8,schedule=1f1b" as pairs. HLM_USAGE for a missing '=', an empty key or a repeated key. */
struct hlm_pair {
    const char *key, *value;
};
HLM_MUST_CHECK enum hlm_status hlm_opt_pairs(struct hlm_arena *arena, const char *option,
                                             const char *text, const struct hlm_pair **out,
                                             int *out_num, struct hlm_err *err);

#endif
