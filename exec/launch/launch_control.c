#include "exec/launch/launch_control.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ftw.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "exec/launch/control.h"

enum { FOLDER_NAME_MAX = sizeof "hlmplan-1234567890-XXXXXX" };
static const char socket_name[] = "control";

/* ---- folders ---- */

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    remove(path);
    return 0;
}

static void remove_tree(const char *path)
{
    if (path != NULL) {
        nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    }
}

static const char *make_folder(struct hlm_arena *arena, const char *parent)
{
    char *path = hlm_arena_printf(arena, "%s/hlmplan-%ld-XXXXXX", parent, (long)getpid());
    return mkdtemp(path);
}

/* The path of a Unix-domain socket has a short limit, which a long TMPDIR would pass. */
static const char *temporary_parent(void)
{
    const char *parent = getenv("TMPDIR");
    const size_t room =
        sizeof((struct sockaddr_un *)NULL)->sun_path - FOLDER_NAME_MAX - sizeof socket_name - 2;
    return parent != NULL && parent[0] == '/' && strlen(parent) < room ? parent : "/tmp";
}

/* ---- sockets ---- */

static int listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    HLM_ASSERT(strlen(path) < sizeof address.sun_path);
    strcpy(address.sun_path, path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
                    listen(fd, SOMAXCONN) != 0)) {
        close(fd);
        return -1;
    }
    return fd;
}

static int listen_any(int family, in_port_t *out_port)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = in6addr_any};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    struct sockaddr *address =
        family == AF_INET6 ? (struct sockaddr *)&six : (struct sockaddr *)&four;
    socklen_t length = family == AF_INET6 ? sizeof six : sizeof four;
    const int off = 0;
    const int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -1;
    }
    if ((family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) != 0) ||
        bind(fd, address, length) != 0 || listen(fd, SOMAXCONN) != 0 ||
        getsockname(fd, address, &length) != 0) {
        close(fd);
        return -1;
    }
    *out_port = family == AF_INET6 ? ntohs(six.sin6_port) : ntohs(four.sin_port);
    return fd;
}

/* Which of its addresses another machine can reach is not known here; a rank tries them all and the
 * secret word tells it (and us) the right one. */
static void add_addresses(struct hlm_text *text)
{
    struct ifaddrs *list = NULL;
    if (getifaddrs(&list) != 0) {
        return;
    }
    int count = 0;
    for (const struct ifaddrs *i = list; i != NULL && count < HLM_CONTROL_MAX_ADDRESSES;
         i = i->ifa_next) {
        if (i->ifa_addr == NULL || (i->ifa_flags & IFF_UP) == 0 ||
            (i->ifa_flags & IFF_LOOPBACK) != 0) {
            continue;
        }
        char name[INET6_ADDRSTRLEN] = "";
        if (i->ifa_addr->sa_family == AF_INET) {
            struct sockaddr_in four;
            memcpy(&four, i->ifa_addr, sizeof four);
            inet_ntop(AF_INET, &four.sin_addr, name, sizeof name);
        } else if (i->ifa_addr->sa_family == AF_INET6) {
            struct sockaddr_in6 six;
            memcpy(&six, i->ifa_addr, sizeof six);
            if (!IN6_IS_ADDR_LINKLOCAL(&six.sin6_addr)) {
                inet_ntop(AF_INET6, &six.sin6_addr, name, sizeof name);
            }
        }
        if (name[0] != '\0') {
            hlm_text_printf(text, "%s%s", count++ > 0 ? "," : "", name);
        }
    }
    freeifaddrs(list);
}

static enum hlm_status open_tcp(struct hlm_control *control, struct hlm_arena *arena,
                                struct hlm_err *err)
{
    in_port_t port = 0;
    control->listener = listen_any(AF_INET6, &port);
    if (control->listener < 0) {
        control->listener = listen_any(AF_INET, &port);
    }
    if (control->listener < 0) {
        return hlm_fail(err, HLM_ENV, "cannot listen for the ranks on TCP: %s", strerror(errno));
    }
    struct hlm_text text;
    hlm_text_init(&text, arena);
    hlm_text_printf(&text, HLM_CONTROL_VARIABLE "=tcp:%s:%u:", control->word, (unsigned)port);
    add_addresses(&text);
    control->variable = text.text;
    return HLM_OK;
}

static enum hlm_status open_unix(struct hlm_control *control, struct hlm_arena *arena,
                                 struct hlm_err *err)
{
    const char *path = hlm_arena_printf(arena, "%s/%s", control->folder, socket_name);
    control->listener = listen_unix(path);
    if (control->listener < 0) {
        return hlm_fail(err, HLM_ENV, "cannot listen for the ranks at %s: %s", path,
                        strerror(errno));
    }
    control->variable =
        hlm_arena_printf(arena, HLM_CONTROL_VARIABLE "=unix:%s:%s", control->word, path);
    return HLM_OK;
}

static const char *random_word(struct hlm_arena *arena)
{
    unsigned char bytes[16];
    HLM_ASSERT(getrandom(bytes, sizeof bytes, 0) == sizeof bytes);
    char *word = HLM_ARENA_ARRAY(arena, char, 2 * sizeof bytes + 1);
    for (size_t i = 0; i < sizeof bytes; i++) {
        snprintf(word + 2 * i, 3, "%02x", bytes[i]);
    }
    return word;
}

enum hlm_status hlm_control_init(struct hlm_control *out, struct hlm_arena *arena, bool mpi,
                                 bool remote, struct hlm_err *err)
{
    struct hlm_control control = {.listener = -1, .word = random_word(arena)};
    const char *parent = temporary_parent();
    control.folder = make_folder(arena, parent);
    if (control.folder == NULL) {
        return hlm_fail(err, HLM_ENV, "cannot make a temporary folder in %s: %s", parent,
                        strerror(errno));
    }
    control.shared = mpi && !remote ? make_folder(arena, "/dev/shm") : NULL;
    const enum hlm_status status =
        remote ? open_tcp(&control, arena, err) : open_unix(&control, arena, err);
    if (status != HLM_OK) {
        hlm_control_release(&control);
        return status;
    }
    *out = control;
    return HLM_OK;
}

void hlm_control_release(struct hlm_control *control)
{
    if (control->listener >= 0) {
        close(control->listener);
        control->listener = -1;
    }
    remove_tree(control->folder);
    remove_tree(control->shared);
}
