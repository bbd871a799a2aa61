#include "exec/launch/launch_meeting.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_PORT = 65535 };

int32_t hlm_meeting_port_of_master(int64_t master_port)
{
    const int64_t port = master_port + HLM_MEETING_PORT_OFFSET;
    return (int32_t)(port <= MAX_PORT ? port : master_port - HLM_MEETING_PORT_OFFSET);
}

int32_t hlm_meeting_port_of_slurm(int64_t job, int64_t step)
{
    const uint64_t number = 8 * (uint64_t)job + (uint64_t)step;
    return HLM_MEETING_SLURM_BASE + (int32_t)(number % HLM_MEETING_SLURM_PORTS);
}

/* -1, errno set, where it can't. */
static int listen_on(int family, bool loopback, int32_t port)
{
    const int on = 1, off = 0;
    const struct sockaddr_in6 six = {.sin6_family = AF_INET6,
                                     .sin6_port = htons((uint16_t)port),
                                     .sin6_addr = loopback ? in6addr_loopback : in6addr_any};
    const struct sockaddr_in four = {.sin_family = AF_INET,
                                     .sin_port = htons((uint16_t)port),
                                     .sin_addr.s_addr =
                                         htonl(loopback ? INADDR_LOOPBACK : INADDR_ANY)};
    const bool is_six = family == AF_INET6;
    const int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -1;
    }
    /* Connections of an earlier run that the kernel still remembers shall not hold the port. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if ((is_six && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) != 0) ||
        bind(fd, is_six ? (const struct sockaddr *)&six : (const struct sockaddr *)&four,
             is_six ? sizeof six : sizeof four) != 0 ||
        listen(fd, SOMAXCONN) != 0) {
        const int failure = errno;
        close(fd);
        errno = failure;
        return -1;
    }
    return fd;
}

enum hlm_status hlm_meeting_listen(const char *address, int32_t port, int *out_fd,
                                   struct hlm_err *err)
{
    static const struct {
        const char *address;
        int family;
    } loopbacks[] = {{"localhost", AF_INET}, {"127.0.0.1", AF_INET}, {"::1", AF_INET6}};
    int fd = -1;
    bool loopback = false;
    for (size_t i = 0; i < sizeof loopbacks / sizeof loopbacks[0] && !loopback; i++) {
        loopback = strcasecmp(address, loopbacks[i].address) == 0;
        fd = loopback ? listen_on(loopbacks[i].family, true, port) : -1;
    }
    fd = loopback ? fd : listen_on(AF_INET6, false, port); /* takes IPv4 too */
    if (fd < 0 && !loopback && errno != EADDRINUSE) {
        fd = listen_on(AF_INET, false, port);
    }
    if (fd < 0) {
        return hlm_fail(err, HLM_ENV, "port %d: %s", (int)port, strerror(errno));
    }
    *out_fd = fd;
    return HLM_OK;
}

int32_t hlm_meeting_port(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
    } address = {.any = {0}};
    socklen_t length = sizeof address;
    HLM_ASSERT(getsockname(fd, &address.any, &length) == 0);
    return ntohs(address.any.sa_family == AF_INET6 ? address.six.sin6_port : address.four.sin_port);
}
