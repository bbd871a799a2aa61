#include <ctype.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "exec/launch/launch.h"
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

static enum hlm_status fail_piece(const char *piece, struct hlm_err *err)
{
    return hlm_fail(err, HLM_USAGE, "--hosts: expected host:slots,..., found \"%s\"", piece);
}

struct slot_host {
    char *name;
    int32_t num_slots;
    bool has_ranks;
};

static enum hlm_status cut_hosts(struct hlm_arena *arena, const char *text, struct slot_host **out,
                                 int32_t *out_num, struct hlm_err *err)
{
    int32_t capacity = 1, num = 0;
    for (const char *c = text; *c != '\0'; c++) {
        capacity += *c == ',';
    }
    struct slot_host *hosts = HLM_ARENA_ARRAY(arena, struct slot_host, capacity);
    char *state = NULL;
    for (char *piece = strtok_r(hlm_arena_strdup(arena, text), ",", &state); piece != NULL;
         piece = strtok_r(NULL, ",", &state)) {
        const char *original = hlm_arena_strdup(arena, piece);
        if (!cut_piece(piece, &hosts[num].name, &hosts[num].num_slots)) {
            return fail_piece(original, err);
        }
        num++;
    }
    *out = hosts;
    *out_num = num;
    return HLM_OK;
}

/* Which hosts get how many of the ranks, filled in order. */
static void fill_hosts(struct hlm_arena *arena, const struct slot_host *all, int32_t num_all,
                       int32_t num_ranks, struct hlm_launch_hosts *out)
{
    const char **names = HLM_ARENA_ARRAY(arena, const char *, num_all);
    int32_t *counts = HLM_ARENA_ARRAY(arena, int32_t, num_all);
    for (int32_t i = 0; i < num_all && num_ranks > 0; i++) {
        names[i] = all[i].name;
        counts[i] = all[i].num_slots < num_ranks ? all[i].num_slots : num_ranks;
        num_ranks -= counts[i];
        out->num++;
    }
    out->names = names;
    out->num_ranks = counts;
}

enum hlm_status hlm_launch_hosts_parse(struct hlm_launch_hosts *out, struct hlm_arena *arena,
                                       const char *text, int32_t num_ranks, struct hlm_err *err)
{
    struct hlm_launch_hosts hosts = {0};
    struct slot_host *all = NULL;
    struct hlm_text file;
    int32_t num = 0;
    int64_t total = 0;
    hlm_text_init(&file, arena);
    HLM_TRY(cut_hosts(arena, text, &all, &num, err));
    for (int32_t i = 0; i < num; i++) {
        hlm_text_printf(&file, "%s slots=%" PRId32 "\n", all[i].name, all[i].num_slots);
        hosts.remote = hosts.remote || !is_this_machine(all[i].name);
        total += all[i].num_slots;
    }
    if (total < num_ranks) {
        return hlm_fail(err, HLM_USAGE,
                        "--hosts has slots for %" PRId64 " ranks, but %" PRId32 " are needed",
                        total, num_ranks);
    }
    fill_hosts(arena, all, num, num_ranks, &hosts);
    hosts.hostfile = file.text;
    *out = hosts;
    return HLM_OK;
}

/* --- a plan's own order --- */

/* NULL: there are fewer slots. */
static struct slot_host *host_of_device(struct slot_host *hosts, int32_t num_hosts, int32_t device)
{
    for (int32_t i = 0; i < num_hosts; i++) {
        if (device < hosts[i].num_slots) {
            return &hosts[i];
        }
        device -= hosts[i].num_slots;
    }
    return NULL;
}

static void add_host(struct hlm_text *text, const struct slot_host *host, int32_t num_ranks)
{
    const bool bracketed = strchr(host->name, ':') != NULL;
    hlm_text_printf(text, "%s%s%s%s:%" PRId32, text->text[0] != '\0' ? "," : "",
                    bracketed ? "[" : "", host->name, bracketed ? "]" : "", num_ranks);
}

static bool is_in_order(const int32_t *device_of, int32_t num_ranks)
{
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        if (device_of[rank] != rank) {
            return false;
        }
    }
    return true;
}

enum hlm_status hlm_launch_hosts_place(struct hlm_arena *arena, const char *hosts,
                                       const int32_t *device_of, int32_t num_ranks,
                                       const char **out, struct hlm_err *err)
{
    struct slot_host *all = NULL, *last = NULL;
    int32_t num = 0, num_on_last = 0;
    struct hlm_text text;
    if (is_in_order(device_of, num_ranks)) {
        *out = hosts;
        return HLM_OK;
    }
    hlm_text_init(&text, arena);
    HLM_TRY(cut_hosts(arena, hosts, &all, &num, err));
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        struct slot_host *host = host_of_device(all, num, device_of[rank]);
        if (host == NULL) {
            return hlm_fail(err, HLM_USAGE,
                            "--hosts has no slot for device %" PRId32 " of the plan, where rank "
                            "%" PRId32 " belongs: it must name the machines of all devices, in "
                            "their order",
                            device_of[rank], rank);
        }
        if (host != last && host->has_ranks) {
            return hlm_fail(err, HLM_ENV,
                            "the plan's ranks on %s are not in a row: start them by mpirun with "
                            "--rankfile",
                            host->name);
        }
        if (host != last && last != NULL) {
            add_host(&text, last, num_on_last);
            num_on_last = 0;
        }
        host->has_ranks = true;
        last = host;
        num_on_last++;
    }
    add_host(&text, last, num_on_last);
    *out = text.text;
    return HLM_OK;
}
