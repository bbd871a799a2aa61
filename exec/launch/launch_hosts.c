#include <ctype.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "exec/launch/launch_control.h"

enum { MAX_SLOTS = 65536 };

static bool is_this_machine(const char *host)
{
    static const char *const loopback[] = {"localhost", "127.0.0.1", "::1"};
    for (size_t i = 0; i < sizeof loopback / sizeof loopback[0]; i++) {
        if (strcasecmp(host, loopback[i]) == 0) {
            return true;
        }
    }
    char name[HOST_NAME_MAX + 1] = "";
    gethostname(name, sizeof name - 1);
    const size_t first_label = strcspn(name, ".");
    return name[0] != '\0' &&
           (strcasecmp(host, name) == 0 ||
            (strlen(host) == first_label && strncasecmp(host, name, first_label) == 0));
}

/* Letters of host names and addresses; what else mpirun's hostfile would take for syntax. */
static bool is_host(const char *text, bool bracketed)
{
    for (const char *c = text; *c != '\0'; c++) {
        if (!isalnum((unsigned char)*c) && strchr(bracketed ? ".:%-_" : ".-_", *c) == NULL) {
            return false;
        }
    }
    return text[0] != '\0' && text[0] != '-';
}

/* Cuts "host", "host:slots" or "[v6]:slots" in place. */
static bool cut_piece(char *piece, char **out_host, int32_t *out_slots)
{
    const bool bracketed = piece[0] == '[';
    char *end = bracketed ? strchr(piece, ']') : piece + strcspn(piece, ":");
    if (end == NULL) {
        return false;
    }
    char *rest = bracketed ? end + 1 : end;
    const bool has_slots = rest[0] == ':';
    if (rest[0] != '\0' && !has_slots) {
        return false;
    }
    const char *digits = rest + 1;
    char *digits_end = NULL;
    const long slots = has_slots ? strtol(digits, &digits_end, 10) : 1;
    if (has_slots && (!isdigit((unsigned char)digits[0]) || *digits_end != '\0')) {
        return false;
    }
    *end = '\0';
    *out_host = bracketed ? piece + 1 : piece;
    *out_slots = slots <= MAX_SLOTS ? (int32_t)slots : 0;
    return *out_slots > 0 && is_host(*out_host, bracketed);
}

enum hlm_status hlm_launch_hosts_parse(struct hlm_launch_hosts *out, struct hlm_arena *arena,
                                       const char *text, int32_t num_ranks, struct hlm_err *err)
{
    struct hlm_launch_hosts hosts = {0};
    struct hlm_text file;
    hlm_text_init(&file, arena);
    int64_t total = 0;
    char *state = NULL;
    for (char *piece = strtok_r(hlm_arena_strdup(arena, text), ",", &state); piece != NULL;
         piece = strtok_r(NULL, ",", &state)) {
        const char *original = hlm_arena_strdup(arena, piece);
        char *host = NULL;
        int32_t slots = 0;
        if (!cut_piece(piece, &host, &slots)) {
            return hlm_fail(err, HLM_USAGE, "--hosts: expected host:slots,..., found \"%s\"",
                            original);
        }
        hlm_text_printf(&file, "%s slots=%" PRId32 "\n", host, slots);
        hosts.remote = hosts.remote || !is_this_machine(host);
        total += slots;
    }
    if (total < num_ranks) {
        return hlm_fail(err, HLM_USAGE,
                        "--hosts gives %" PRId64 " slots, but the plan has %" PRId32 " ranks",
                        total, num_ranks);
    }
    hosts.hostfile = file.text;
    *out = hosts;
    return HLM_OK;
}
