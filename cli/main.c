/* main: finds the command, prints its error, exits with its status. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const char *const help_words[] = {"--help", "-h", "help", NULL};
static const char *const version_words[] = {"--version", "-V", "version", NULL};

static bool is_one_of(const char *word, const char *const *words)
{
    for (; *words != NULL; words++) {
        if (strcmp(word, *words) == 0) {
            return true;
        }
    }
    return false;
}

static enum hlm_status print_help(struct hlm_arena *arena, const struct hlm_command *commands,
                                  const char *name, struct hlm_err *err)
{
    if (name == NULL) {
        hlm_opt_overview(stdout, HLM_PROGRAM, HLM_TAGLINE, commands);
        return HLM_OK;
    }
    const struct hlm_command *command = hlm_command_find(commands, name);
    if (command == NULL) {
        return hlm_command_unknown(arena, commands, name, err);
    }
    hlm_opt_help(stdout, HLM_PROGRAM, command);
    return HLM_OK;
}

static enum hlm_status run_command(struct hlm_arena *arena, const struct hlm_command *command,
                                   int argc, const char *const *argv, struct hlm_err *err)
{
    void *options = hlm_arena_alloc(arena, 1, command->options_size);
    bool help = false;
    HLM_TRY(hlm_opt_parse(arena, command, argc, argv, options, &help, err));
    if (help) {
        hlm_opt_help(stdout, HLM_PROGRAM, command);
        return HLM_OK;
    }
    return command->run(arena, options, err);
}

static enum hlm_status run_program(struct hlm_arena *arena, int argc, const char *const *argv,
                                   struct hlm_err *err)
{
    const struct hlm_command *commands = hlm_commands(arena);
    if (is_one_of(argv[1], help_words)) {
        return print_help(arena, commands, argc > 2 ? argv[2] : NULL, err);
    }
    if (is_one_of(argv[1], version_words)) {
        printf("%s %s\n", HLM_PROGRAM, HLM_VERSION);
        return HLM_OK;
    }
    if (argv[1][0] == '-') {
        return hlm_fail(err, HLM_USAGE, "expected a command before the option %s", argv[1]);
    }
    const struct hlm_command *command = hlm_command_find(commands, argv[1]);
    if (command == NULL) {
        return hlm_command_unknown(arena, commands, argv[1], err);
    }
    return run_command(arena, command, argc - 2, argv + 2, err);
}

/* An answer that did not reach its reader is a failure, whatever the answer was. */
static enum hlm_status finish_stdout(enum hlm_status status, struct hlm_err *err)
{
    if (fflush(stdout) != 0) {
        return hlm_fail(err, HLM_FAILED, "cannot write stdout: %s", strerror(errno));
    }
    if (ferror(stdout) != 0) {
        return hlm_fail(err, HLM_FAILED, "cannot write stdout");
    }
    return status;
}

static void print_error(enum hlm_status status, const char *command, const struct hlm_err *err)
{
    fprintf(stderr, "%s: %s\n", HLM_PROGRAM, err->text);
    if (status == HLM_USAGE) {
        fprintf(stderr, "\"%s%s%s --help\" explains.\n", HLM_PROGRAM, command == NULL ? "" : " ",
                command == NULL ? "" : command);
    }
}

int main(int argc, char **argv)
{
    /* A reader that closes the pipe early shall be reported like a full disk. */
    signal(SIGPIPE, SIG_IGN);
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err = {.status = HLM_OK};
    enum hlm_status status = HLM_USAGE;
    if (argc < 2) {
        hlm_opt_overview(stdout, HLM_PROGRAM, HLM_TAGLINE, hlm_commands(arena));
        hlm_fail(&err, HLM_USAGE, "expected a command");
    } else {
        status = run_program(arena, argc, (const char *const *)argv, &err);
    }
    status = finish_stdout(status, &err);
    if (status != HLM_OK) {
        const bool known = argc > 1 && hlm_command_find(hlm_commands(arena), argv[1]) != NULL;
        print_error(status, known ? argv[1] : NULL, &err);
    }
    hlm_arena_free(arena);
    return (int)status;
}
