#include <string.h>

#include "cli/cli.h"

static const struct hlm_command *const table[] = {
    &hlm_cmd_plan,      &hlm_cmd_estimate, &hlm_cmd_explain, &hlm_cmd_check,
    &hlm_cmd_simulate,  &hlm_cmd_profile,  &hlm_cmd_run,     &hlm_cmd_compare,
    &hlm_cmd_calibrate, &hlm_cmd_validate, &hlm_cmd_list,    &hlm_cmd_demo};
enum { NUM_COMMANDS = sizeof(table) / sizeof(table[0]) };

const struct hlm_command *hlm_commands(struct hlm_arena *arena)
{
    struct hlm_command *commands = HLM_ARENA_ARRAY(arena, struct hlm_command, NUM_COMMANDS + 1);
    for (int i = 0; i < NUM_COMMANDS; i++) {
        commands[i] = *table[i];
    }
    return commands;
}

const struct hlm_command *hlm_command_find(const struct hlm_command *commands, const char *name)
{
    for (; commands->name != NULL; commands++) {
        if (strcmp(commands->name, name) == 0) {
            return commands;
        }
    }
    return NULL;
}

enum hlm_status hlm_command_unknown(struct hlm_arena *arena, const struct hlm_command *commands,
                                    const char *name, struct hlm_err *err)
{
    int num = 0;
    while (commands[num].name != NULL) {
        num++;
    }
    const char **names = HLM_ARENA_ARRAY(arena, const char *, num + 1);
    for (int i = 0; i < num; i++) {
        names[i] = commands[i].name;
    }
    const char *nearest = hlm_opt_nearest(name, names);
    if (nearest == NULL) {
        return hlm_fail(err, HLM_USAGE, "unknown command \"%s\"", name);
    }
    return hlm_fail(err, HLM_USAGE, "unknown command \"%s\" (did you mean %s?)", name, nearest);
}
