/* The floor: copies bytes between a client and the origin, one connection to the origin for each client, no HTTP at all.

       passthrough PORT ORIGIN_PORT        listens on 127.0.0.1:PORT until it is killed

   No proxy on sockets and epoll can need less of this kernel; what a proxy needs beyond it is its own work. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_FDS 65536
#define BUFFER (64 * 1024) /* what hotproxy and Envoy read at a time, in order of magnitude */

/* What has been read for a side and not been written to it yet; a side with something pending stops its peer. */
struct side {
    int peer;
    char *pending;
    size_t begin, end;
};
static struct side sides[MAX_FDS];
static int poller;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &event) < 0)
        die("epoll_ctl");
}

static void hang_up(int fd) {
    int both[2] = {fd, sides[fd].peer};
    for (int i = 0; i < 2; i++) {
        free(sides[both[i]].pending);
        sides[both[i]] = (struct side){.peer = -1};
        close(both[i]);
    }
}

static void accept_all(int listening, const struct sockaddr_in *origin) {
    for (;;) {
        int client = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client < 0)
            return;
        int upstream = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
        if (upstream < 0 || upstream >= MAX_FDS || client >= MAX_FDS)
            die("too many connections");
        /* Loopback connects at once; only afterwards may it not block. */
        if (connect(upstream, (const struct sockaddr *)origin, sizeof *origin) < 0)
            die("connect");
        int both[2] = {client, upstream};
        for (int i = 0; i < 2; i++) {
            setsockopt(both[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            sides[both[i]] = (struct side){.peer = both[1 - i]};
        }
        if (fcntl(upstream, F_SETFL, O_NONBLOCK) < 0)
            die("fcntl");
        watch(client, EPOLLIN, EPOLL_CTL_ADD);
        watch(upstream, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void on_readable(int fd) {
    static char buffer[BUFFER];
    int peer = sides[fd].peer;
    ssize_t length = recv(fd, buffer, sizeof buffer, 0);
    if (length < 0 && errno == EAGAIN)
        return;
    if (length <= 0) {
        hang_up(fd);
        return;
    }
    ssize_t sent = send(peer, buffer, length, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        hang_up(fd);
        return;
    }
    if (sent < 0)
        sent = 0;
    if (sent < length) {
        struct side *to = &sides[peer];
        to->pending = malloc(length - sent);
        memcpy(to->pending, buffer + sent, length - sent);
        to->begin = 0;
        to->end = length - sent;
        watch(fd, sides[fd].pending ? EPOLLOUT : 0, EPOLL_CTL_MOD);
        watch(peer, EPOLLOUT | (sides[fd].pending ? 0 : EPOLLIN), EPOLL_CTL_MOD);
    }
}

static void on_writable(int fd) {
    struct side *to = &sides[fd];
    int peer = to->peer;
    ssize_t sent = send(fd, to->pending + to->begin, to->end - to->begin, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            hang_up(fd);
        return;
    }
    to->begin += sent;
    if (to->begin < to->end)
        return;
    free(to->pending);
    to->pending = NULL;
    watch(fd, sides[peer].pending ? 0 : EPOLLIN, EPOLL_CTL_MOD);
    watch(peer, EPOLLIN | (sides[peer].pending ? EPOLLOUT : 0), EPOLL_CTL_MOD);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    struct sockaddr_in origin = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    origin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&here, sizeof here) < 0 || listen(listening, 4096) < 0)
        die("listen");
    for (int fd = 0; fd < MAX_FDS; fd++)
        sides[fd].peer = -1;
    poller = epoll_create1(EPOLL_CLOEXEC);
    watch(listening, EPOLLIN, EPOLL_CTL_ADD);
    for (;;) {
        struct epoll_event events[256];
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listening) {
                accept_all(listening, &origin);
            } else if (sides[fd].peer < 0) {
                continue; /* hung up earlier in this turn */
            } else if (sides[sides[fd].peer].pending && (events[i].events & (EPOLLHUP | EPOLLERR))) {
                hang_up(fd); /* paused, and gone meanwhile */
            } else if (sides[fd].pending) {
                on_writable(fd);
            } else {
                on_readable(fd);
            }
        }
    }
}
