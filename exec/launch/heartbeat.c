#include "exec/launch/heartbeat.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "exec/launch/control.h"

enum { CONNECT_TIMEOUT_MS = 5000, TCP_DEAD_MS = 10000 };

struct hlm_heartbeat {
    int socket, wake; /* wake: an eventfd that ends the thread */
    pthread_t thread;
    pthread_mutex_t send_lock; /* lines of several threads must not mix */
    _Atomic(int64_t) step;
    _Atomic(const char *) action, operation;
    atomic_bool waiting;
    _Atomic(uint64_t) counter;
};

/* ---- sending ---- */

/* False when the launcher is gone. Blocks while the launcher is stopped (Ctrl-Z) and the buffer is
 * full. */
static bool send_all(struct hlm_heartbeat *heartbeat, const char *bytes, size_t length)
{
    bool sent = true;
    pthread_mutex_lock(&heartbeat->send_lock);
    while (length > 0 && sent) {
        const ssize_t n = send(heartbeat->socket, bytes, length, MSG_NOSIGNAL);
        if (n >= 0) {
            bytes += n;
            length -= (size_t)n;
        } else {
            sent = errno == EINTR;
        }
    }
    pthread_mutex_unlock(&heartbeat->send_lock);
    return sent;
}

/* Makes the text one line of legal length, with its end. */
static size_t finish_line(char line[HLM_CONTROL_LINE], int length)
{
    const size_t end = length < 0                      ? 0
                       : length > HLM_CONTROL_LINE - 2 ? HLM_CONTROL_LINE - 2
                                                       : (size_t)length;
    for (size_t i = 0; i < end; i++) {
        if (line[i] == '\n' || line[i] == '\r') {
            line[i] = ' ';
        }
    }
    line[end] = '\n';
    line[end + 1] = '\0';
    return end + 1;
}

static bool send_beat(struct hlm_heartbeat *heartbeat)
{
    const int64_t step = atomic_load_explicit(&heartbeat->step, memory_order_relaxed);
    const char *action = atomic_load_explicit(&heartbeat->action, memory_order_acquire);
    const char *operation = atomic_load_explicit(&heartbeat->operation, memory_order_acquire);
    char line[HLM_CONTROL_LINE], where[40] = "";
    if (step >= 0) {
        snprintf(where, sizeof where, "step %" PRId64, step);
    }
    const int length =
        snprintf(line, sizeof line, "beat %" PRIu64 " %d %s%s%s%s%s",
                 atomic_load_explicit(&heartbeat->counter, memory_order_relaxed),
                 (int)atomic_load_explicit(&heartbeat->waiting, memory_order_relaxed), where,
                 step >= 0 && action != NULL ? ", " : "", action != NULL ? action : "",
                 (step >= 0 || action != NULL) && operation != NULL ? ", " : "",
                 operation != NULL ? operation : "");
    return send_all(heartbeat, line, finish_line(line, length));
}

/* The launcher never writes after its welcome: anything readable is the end of the connection. */
static void *beat_loop(void *argument)
{
    struct hlm_heartbeat *heartbeat = argument;
    pthread_setname_np(pthread_self(), "heartbeat");
    for (;;) {
        struct pollfd fds[2] = {{.fd = heartbeat->socket, .events = POLLIN},
                                {.fd = heartbeat->wake, .events = POLLIN}};
        const int ready = poll(fds, 2, HLM_CONTROL_BEAT_MS);
        if (fds[1].revents != 0) {
            return NULL;
        }
        if ((ready > 0 && fds[0].revents != 0) || !send_beat(heartbeat)) {
            _exit(HLM_FAILED);
        }
    }
}

/* ---- connecting ---- */

static bool connect_within(int fd, const struct sockaddr *address, socklen_t length)
{
    if (connect(fd, address, length) == 0) {
        return true;
    }
    if (errno != EINPROGRESS && errno != EAGAIN) {
        return false;
    }
    struct pollfd poller = {.fd = fd, .events = POLLOUT};
    int failure = 0;
    socklen_t size = sizeof failure;
    return poll(&poller, 1, CONNECT_TIMEOUT_MS / 2) == 1 &&
           getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) == 0 && failure == 0;
}

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int connect_address(const char *host, const char *port)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *info = NULL;
    if (getaddrinfo(host, port, &hints, &info) != 0) {
        return -1;
    }
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && !connect_within(fd, info->ai_addr, info->ai_addrlen)) {
        close(fd);
        fd = -1;
    }
    freeaddrinfo(info);
    if (fd >= 0) {
        /* Without it a launcher whose machine vanished would never be noticed. */
        const unsigned int dead_ms = TCP_DEAD_MS;
        const int on = 1;
        fcntl(fd, F_SETFL, 0);
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof dead_ms);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    return fd;
}

/* Says hello and waits for the welcome, which proves that this is our launcher and not whatever
 * else listens at one of its addresses as seen from here. */
static bool greet(int fd, const char *word, int32_t rank)
{
    char host[HOST_NAME_MAX + 1] = "", line[HLM_CONTROL_LINE];
    gethostname(host, sizeof host - 1);
    const int length = snprintf(line, sizeof line, "hello %s %" PRId32 " %ld %s", word, rank,
                                (long)getpid(), host);
    const size_t bytes = finish_line(line, length);
    if (send(fd, line, bytes, MSG_NOSIGNAL) != (ssize_t)bytes) {
        return false;
    }
    const size_t wanted = strlen(HLM_CONTROL_WELCOME);
    size_t got = 0;
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    while (got < wanted && poll(&poller, 1, CONNECT_TIMEOUT_MS) == 1) {
        const ssize_t n = recv(fd, line + got, wanted - got, 0);
        if (n <= 0) {
            return false;
        }
        got += (size_t)n;
    }
    return got == wanted && memcmp(line, HLM_CONTROL_WELCOME, wanted) == 0;
}

static int connect_tcp(const char *word, char *rest, int32_t rank)
{
    char *state = NULL;
    const char *port = strtok_r(rest, ":", &state);
    int fd = -1;
    for (char *host = strtok_r(NULL, ",", &state); port != NULL && host != NULL && fd < 0;
         host = strtok_r(NULL, ",", &state)) {
        fd = connect_address(host, port);
        if (fd >= 0 && !greet(fd, word, rank)) {
            close(fd);
            fd = -1;
        }
    }
    return fd;
}

/* -1: the launcher can't be reached; -2: malformed. `text` is cut into pieces. */
static int connect_control(char *text, int32_t rank)
{
    char *state = NULL;
    const char *kind = strtok_r(text, ":", &state);
    const char *word = strtok_r(NULL, ":", &state);
    char *rest = strtok_r(NULL, "", &state);
    if (rest == NULL) {
        return -2;
    }
    if (strcmp(kind, "tcp") == 0) {
        return connect_tcp(word, rest, rank);
    }
    if (strcmp(kind, "unix") != 0) {
        return -2;
    }
    int fd = connect_unix(rest);
    if (fd >= 0 && !greet(fd, word, rank)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* ---- the object ---- */

/* Signals are for the rank's own threads. */
static int start_thread(struct hlm_heartbeat *heartbeat)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    const int failure = pthread_create(&heartbeat->thread, NULL, beat_loop, heartbeat);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return failure;
}

static struct hlm_heartbeat *heartbeat_new(int fd)
{
    struct hlm_heartbeat *heartbeat = calloc(1, sizeof *heartbeat);
    const int wake = eventfd(0, EFD_CLOEXEC);
    if (heartbeat == NULL || wake < 0) {
        free(heartbeat);
        return NULL;
    }
    heartbeat->socket = fd;
    heartbeat->wake = wake;
    atomic_init(&heartbeat->step, -1);
    atomic_init(&heartbeat->operation, "starting");
    pthread_mutex_init(&heartbeat->send_lock, NULL);
    if (start_thread(heartbeat) != 0) {
        close(wake);
        pthread_mutex_destroy(&heartbeat->send_lock);
        free(heartbeat);
        return NULL;
    }
    return heartbeat;
}

enum hlm_status hlm_heartbeat_start(int32_t rank, struct hlm_heartbeat **out, struct hlm_err *err)
{
    const char *address = getenv(HLM_CONTROL_VARIABLE);
    if (address == NULL) {
        *out = NULL;
        return HLM_OK;
    }
    char *text = strdup(address);
    const int fd = text != NULL ? connect_control(text, rank) : -1;
    const int failure = errno;
    free(text);
    if (fd == -2) {
        return hlm_fail(err, HLM_ENV,
                        HLM_CONTROL_VARIABLE ": expected unix:<word>:<path> or "
                                             "tcp:<word>:<port>:<addresses>, found \"%s\"",
                        address);
    }
    if (fd < 0) {
        return hlm_fail(err, HLM_ENV, "rank %" PRId32 " cannot reach its launcher: %s", rank,
                        strerror(failure));
    }
    struct hlm_heartbeat *heartbeat = heartbeat_new(fd);
    if (heartbeat == NULL) {
        close(fd);
        return hlm_fail(err, HLM_ENV, "rank %" PRId32 " cannot start its heartbeat thread", rank);
    }
    *out = heartbeat;
    return HLM_OK;
}

void hlm_heartbeat_set(struct hlm_heartbeat *heartbeat, int64_t step, const char *action,
                       const char *operation, bool waiting)
{
    if (heartbeat == NULL) {
        return;
    }
    atomic_store_explicit(&heartbeat->step, step, memory_order_relaxed);
    atomic_store_explicit(&heartbeat->action, action, memory_order_release);
    atomic_store_explicit(&heartbeat->operation, operation, memory_order_release);
    atomic_store_explicit(&heartbeat->waiting, waiting, memory_order_relaxed);
    atomic_fetch_add_explicit(&heartbeat->counter, 1, memory_order_relaxed);
}

void hlm_heartbeat_progress(struct hlm_heartbeat *heartbeat, const char *format, ...)
{
    if (heartbeat == NULL) {
        return;
    }
    char line[HLM_CONTROL_LINE] = "progress ";
    const int used = (int)strlen(line);
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(line + used, sizeof line - (size_t)used, format, args);
    va_end(args);
    atomic_fetch_add_explicit(&heartbeat->counter, 1, memory_order_relaxed);
    /* A launcher that is gone is the heartbeat thread's business. */
    send_all(heartbeat, line, finish_line(line, used + length));
}

void hlm_heartbeat_report(struct hlm_heartbeat *heartbeat, const struct hlm_err *failure)
{
    if (heartbeat == NULL) {
        return;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char line[HLM_CONTROL_LINE];
    send_beat(heartbeat); /* so that the launcher knows what the rank was doing */
    const int length = snprintf(line, sizeof line, "error %" PRId64 " %d %s",
                                (int64_t)now.tv_sec * 1000000000 + now.tv_nsec,
                                (int)failure->status, failure->text);
    send_all(heartbeat, line, finish_line(line, length));
}

void hlm_heartbeat_stop(struct hlm_heartbeat *heartbeat, bool done)
{
    if (heartbeat == NULL) {
        return;
    }
    const uint64_t one = 1;
    /* An eventfd takes eight bytes at once or, never here, would block at its maximum. */
    if (write(heartbeat->wake, &one, sizeof one) == sizeof one) {
        pthread_join(heartbeat->thread, NULL);
    }
    if (done) {
        send_all(heartbeat, "done\n", strlen("done\n"));
    }
    close(heartbeat->socket);
    close(heartbeat->wake);
    pthread_mutex_destroy(&heartbeat->send_lock);
    free(heartbeat);
}
