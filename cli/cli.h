/* cli: the program's commands, one file each, and what they share.
 *
 * A command is a struct hlm_command: its option table and its run function. Run functions print the
 * answer on stdout (nothing else), chatter on stderr, and return a status; only main prints errors
 * and exits. To add a command: write cmd_<name>.c, declare it below, put it into the table in
 * commands.c; help, man page and README follow.
 */
#ifndef HLM_CLI_CLI_H
#define HLM_CLI_CLI_H

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "base/opt.h"

#define HLM_PROGRAM "hlmplan"
#define HLM_TAGLINE "finds, proves and runs the best way to train a transformer on a cluster"

extern const struct hlm_command hlm_cmd_plan, hlm_cmd_estimate, hlm_cmd_explain, hlm_cmd_check,
    hlm_cmd_simulate, hlm_cmd_compare, hlm_cmd_validate, hlm_cmd_list, hlm_cmd_run, hlm_cmd_profile,
    hlm_cmd_demo, hlm_cmd_calibrate;

/* All commands in the order of the help; ends with a row whose name is NULL. */
const struct hlm_command *hlm_commands(struct hlm_arena *arena);

/* The command of this name, or NULL. */
const struct hlm_command *hlm_command_find(const struct hlm_command *commands, const char *name);

/* HLM_USAGE for a command that does not exist, with the nearest that does. */
HLM_MUST_CHECK enum hlm_status hlm_command_unknown(struct hlm_arena *arena,
                                                   const struct hlm_command *commands,
                                                   const char *name, struct hlm_err *err);

/* Prints an object as JSON on stdout. HLM_FAILED when it can't be written. */
HLM_MUST_CHECK enum hlm_status hlm_print_json(struct hlm_arena *arena,
                                              const struct hlm_json_table *table,
                                              const void *object, struct hlm_err *err);

/* The same for a text that is JSON already. */
HLM_MUST_CHECK enum hlm_status hlm_print_text(const char *text, struct hlm_err *err);

/* What varies between equal runs: "2026-01-31T12:00:00Z", the machine's name, and the CPU seconds
 * that this process has used so far. */
const char *hlm_cli_date(struct hlm_arena *arena);
const char *hlm_cli_host(struct hlm_arena *arena);
double hlm_cli_cpu_seconds(void);

#endif
