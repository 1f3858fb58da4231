/* An open-loop load generator: requests are due at times that do not depend on the answers.

       open_loop PORT CONNECTIONS RATE SECONDS SEED REQUEST_FILE [DIARY_FILE]

   The times are those of a Poisson process, as many independent users make it; the same SEED gives the same times. A
   request that is due while every connection is busy waits for the next free one, and its waiting counts: latency is
   from the due time to the last byte of the answer. A closed loop would ask a slow proxy less and call that fast.

   Prints one JSON object: requests, unanswered, errors, and percentiles in microseconds of what was due after the
   first fifth of a second.

   A broken connection ends the run: no peer has a reason to close one, and a round with errors is worth nothing. With a
   DIARY_FILE it is counted and made anew, for there the proxy is restarted meanwhile: `closed` while idle or after an
   answer that said so, `failed` with a request under way. DIARY_FILE gets two int64 per request, in nanoseconds: when it
   was due, by CLOCK_MONOTONIC, and its latency (-1: failed, 0: unanswered). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 1024
#define MAX_HEAD 4096
#define NS 1000000000LL
#define WARM_UP_NS (NS / 5)
#define PATIENCE_NS (2 * NS) /* after the last due time; what is open then is unanswered */

struct connection {
    int fd;
    int64_t request; /* which one is under way, -1: idle */
    int last;        /* the answer says that the connection will be closed */
    char head[MAX_HEAD + 1];
    size_t received; /* bytes of the answer's head so far */
    long body_left;  /* -1: the head is not complete yet */
};

static struct connection connections[MAX_CONNECTIONS];
static int idle[MAX_CONNECTIONS], idle_count;
static int64_t *due_ns, *latency_ns;
static int64_t total, next_due, next_sent, answered, errors, failed, closed;
static char request[MAX_HEAD];
static size_t request_length;
static int port, poller;
static const char *diary;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * NS + time.tv_nsec;
}

/* xorshift64*; uniform in (0, 1]. */
static double random_unit(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (double)((*state * 0x2545F4914F6CDD1DULL >> 11) + 1) / 9007199254740992.0;
}

static void make_schedule(double rate, double seconds, uint64_t seed) {
    size_t room = (size_t)(rate * seconds * 2) + 1000;
    due_ns = calloc(room, sizeof *due_ns);
    latency_ns = calloc(room, sizeof *latency_ns);
    if (!due_ns || !latency_ns)
        die("calloc");
    uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
    double time_s = 0;
    while (total < (int64_t)room) {
        time_s -= log(random_unit(&state)) / rate;
        if (time_s >= seconds)
            break;
        due_ns[total++] = (int64_t)(time_s * NS);
    }
}

/* -1: refused. */
static int open_connection(int number) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0)
        die("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        die("fcntl");
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
    connections[number].fd = fd;
    connections[number].request = -1;
    connections[number].last = 0;
    idle[idle_count++] = number;
    return 0;
}

static void give_up(const char *why) {
    fprintf(stderr, "open_loop: %s\n", why);
    exit(1);
}

/* The connection is gone, and its request with it, if there is one. A new one takes its place. */
static void replace(int number, const char *why) {
    struct connection *connection = &connections[number];
    if (!diary)
        give_up(why);
    if (connection->request >= 0) {
        latency_ns[connection->request] = -1;
        failed++;
    } else {
        closed++;
        for (int i = 0; i < idle_count; i++)
            if (idle[i] == number)
                idle[i--] = idle[--idle_count];
    }
    close(connection->fd);
    if (open_connection(number) < 0)
        give_up("connection refused");
}

static void send_waiting(void) {
    while (next_sent < next_due && idle_count > 0) {
        int number = idle[--idle_count];
        struct connection *connection = &connections[number];
        connection->request = next_sent++;
        connection->received = 0;
        connection->body_left = -1;
        /* A request is smaller than any socket buffer, and the connection was idle. */
        if (send(connection->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length)
            replace(number, "closed before a request could be sent");
    }
}

static void read_head(struct connection *connection) {
    connection->head[connection->received] = 0;
    char *end = strstr(connection->head, "\r\n\r\n");
    if (!end) {
        if (connection->received == MAX_HEAD)
            give_up("the answer's head is too large");
        return;
    }
    end[2] = 0;
    if (strncmp(connection->head, "HTTP/1.1 200", 12) != 0)
        errors++;
    char *length = strcasestr(connection->head, "\r\ncontent-length:");
    if (!length)
        give_up("the answer has no length");
    long behind = (long)(connection->received - (size_t)(end + 4 - connection->head));
    connection->body_left = atol(length + 17) - behind;
    connection->last = strcasestr(connection->head, "\r\nconnection: close") != NULL;
}

static void on_readable(int number, int64_t start_ns) {
    struct connection *connection = &connections[number];
    static char rest[65536];
    if (connection->request < 0) {
        ssize_t length = recv(connection->fd, rest, sizeof rest, 0);
        if (length > 0)
            give_up("an answer to nothing");
        if (length == 0 || errno != EAGAIN)
            replace(number, "closed while idle");
        return;
    }
    int in_head = connection->body_left < 0;
    ssize_t length = in_head ? recv(connection->fd, connection->head + connection->received,
                                    MAX_HEAD - connection->received, 0)
                             : recv(connection->fd, rest, sizeof rest, 0);
    if (length < 0 && errno == EAGAIN)
        return;
    if (length <= 0) {
        replace(number, "closed before the end of an answer");
        return;
    }
    if (in_head) {
        connection->received += (size_t)length;
        read_head(connection);
    } else {
        connection->body_left -= length;
    }
    if (connection->body_left == 0) {
        latency_ns[connection->request] = now_ns() - start_ns - due_ns[connection->request];
        connection->request = -1;
        answered++;
        if (connection->last)
            replace(number, "the answer says Connection: close");
        else
            idle[idle_count++] = number;
    }
}

static void write_diary(int64_t start_ns) {
    FILE *file = fopen(diary, "wb");
    if (!file)
        die(diary);
    for (int64_t i = 0; i < total; i++) {
        int64_t entry[2] = {start_ns + due_ns[i], latency_ns[i]};
        fwrite(entry, sizeof entry, 1, file);
    }
    if (fclose(file) != 0)
        die(diary);
}

static int ascending(const void *a, const void *b) {
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

static void report(void) {
    int64_t first = 0, unanswered = total - answered - failed;
    while (first < total && due_ns[first] < WARM_UP_NS)
        first++;
    /* An unanswered request has waited at least until now: it may not make the percentiles look better. */
    for (int64_t i = first; i < total; i++)
        if (latency_ns[i] <= 0)
            latency_ns[i] = PATIENCE_NS;
    int64_t count = total - first;
    qsort(latency_ns + first, (size_t)count, sizeof *latency_ns, ascending);
    const double wanted[] = {0.5, 0.99, 0.999};
    const char *names[] = {"p50_us", "p99_us", "p999_us"};
    printf("{\"requests\": %ld, \"unanswered\": %ld, \"errors\": %ld", (long)total, (long)unanswered, (long)errors);
    printf(", \"failed\": %ld, \"closed\": %ld", (long)failed, (long)closed);
    for (int i = 0; i < 3; i++)
        printf(", \"%s\": %.1f", names[i], (double)latency_ns[first + (int64_t)((double)(count - 1) * wanted[i])] / 1e3);
    printf("}\n");
}

int main(int argc, char **argv) {
    if (argc < 7 || argc > 8)
        return 2;
    int count = atoi(argv[2]);
    port = atoi(argv[1]);
    diary = argc == 8 ? argv[7] : NULL;
    FILE *file = fopen(argv[6], "rb");
    if (!file || count < 1 || count > MAX_CONNECTIONS)
        die("arguments");
    request_length = fread(request, 1, sizeof request, file);
    fclose(file);
    make_schedule(atof(argv[3]), atof(argv[4]), strtoull(argv[5], NULL, 10));
    /* The kernel may be 50 us late with a timer unless told otherwise, and that is the order of what is measured. */
    prctl(PR_SET_TIMERSLACK, 1);
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < count; i++)
        if (open_connection(i) < 0)
            die("connect");
    int64_t start_ns = now_ns(), end_ns = due_ns[total - 1] + PATIENCE_NS;
    while (answered + failed < total) {
        int64_t now = now_ns() - start_ns;
        if (now > end_ns)
            break;
        while (next_due < total && due_ns[next_due] <= now)
            next_due++;
        send_waiting();
        int64_t wait = (next_due < total ? due_ns[next_due] : end_ns) - now;
        struct timespec timeout = {.tv_sec = wait / NS, .tv_nsec = wait % NS};
        struct epoll_event events[64];
        int ready = epoll_pwait2(poller, events, 64, &timeout, NULL);
        for (int i = 0; i < ready; i++)
            on_readable((int)events[i].data.u32, start_ns);
    }
    if (diary)
        write_diary(start_ns);
    report();
    return 0;
}
