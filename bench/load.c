/*
 * load - policy requests as Postfix's smtpd sends them, from many connections, with one outstanding request on each.
 *
 * Asks one policy server for a fixed time and prints one JSON object: requests per second, latency, counts per action.
 * Every answer is checked: an action that was not to be expected, or a connection that breaks, ends in exit status 1.
 * "cpu" is the share of one core that the generator itself needed; near 1 it is the generator that is measured.
 *
 * SASL users are user0000000 and up, each as likely as the other, or as Zipf's law has it (--zipf). A share of the
 * requests (--spent) is of over0000000 and up, who have nothing left: --refuse says what these are answered. With
 * --domains the users are of so many, and the sender is the same for all users of one. --suffix stands behind each user.
 *
 *     cc -O2 -o load load.c -lm
 *     ./load --tcp 127.0.0.1:10000 --connections 50 --ids 100000 --seconds 5 --allow dunno
 *
 * A request is composed once for each connection. What differs from one to the next has a fixed width and is written
 * over: the generator has to be cheaper than what it measures.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_BYTES 2048
#define ANSWER_BYTES 1024
#define ACTIONS 16
#define DRAIN_SECONDS 10
#define CONNECT_PAUSE_US 300
#define ID_DIGITS 7
#define MAIL_DIGITS 10
#define RECIPIENT_DIGITS 3
#define DOMAIN_DIGITS 5
#define NAMES 2 /* a request names the user as SASL user, and as sender unless the domain has one */

struct connection {
    int fd; /* -1: broken */
    int sending, spent;
    size_t length, sent, got;
    uint64_t began;
    char *name[NAMES], *domain, *mail, *recipient; /* what is written over */
    char request[REQUEST_BYTES], answer[ANSWER_BYTES];
};

static struct {
    const char *tcp, *path, *state, *prefix, *suffix;
    int connections, small, recipients;
    long ids, spent_ids, domains;
    double zipf, spent, seconds, warm_up;
    uint64_t seed;
} option = {.state = "RCPT", .prefix = "user", .suffix = "", .spent_ids = 1000, .connections = 50, .recipients = 1, .ids = 100000, .seconds = 5, .warm_up = 1, .seed = 1};

static struct {
    const char *text;
    uint64_t count;
    int allowed, refusal;
} action[ACTIONS];
static int actions;

static uint64_t state, number, wrong, broken;
static double *zipf_share; /* zipf_share[i]: the share of traffic of the ids 0..i */
static uint32_t *latency;  /* microseconds, one per measured request */
static size_t measured, room;
static char first_wrong[ANSWER_BYTES];

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t draw(void) /* splitmix64 */
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static long draw_id(void)
{
    if (!zipf_share)
        return (long)(draw() % (uint64_t)option.ids);
    double point = (double)(draw() >> 11) / 9007199254740992.0;
    long low = 0, high = option.ids - 1;
    while (low < high) {
        long middle = (low + high) / 2;
        if (zipf_share[middle] < point)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static char *find(char *request, const char *text)
{
    char *found = strstr(request, text);
    if (!found) {
        errno = EINVAL;
        die(text);
    }
    return found + strlen(text);
}

static void compose(struct connection *c)
{
    int length;
    char sender[64];
    if (option.domains)
        snprintf(sender, sizeof sender, "bounces@%0*d.example.org", DOMAIN_DIGITS, 0);
    else
        snprintf(sender, sizeof sender, "%s%0*d@example.org", option.prefix, ID_DIGITS, 0);
    if (option.small)
        length = snprintf(c->request, REQUEST_BYTES,
            "request=smtpd_access_policy\nprotocol_state=%s\ninstance=%08lx.%0*d.0\nsender=%s\n"
            "recipient=recipient%0*d@example.net\nrecipient_count=%d\nclient_address=192.0.2.25\n"
            "sasl_username=%s%0*d%s\n\n",
            option.state, (long)option.seed, MAIL_DIGITS, 0, sender, RECIPIENT_DIGITS, 0,
            option.recipients, option.prefix, ID_DIGITS, 0, option.suffix);
    else /* the 29 attributes of Postfix 3.7, in its order */
        length = snprintf(c->request, REQUEST_BYTES,
            "request=smtpd_access_policy\nprotocol_state=%s\nprotocol_name=ESMTP\nclient_address=192.0.2.25\n"
            "client_name=dsl-192-0-2-25.customers.example.com\nclient_port=49152\n"
            "reverse_client_name=dsl-192-0-2-25.customers.example.com\nserver_address=198.51.100.4\nserver_port=587\n"
            "helo_name=laptop.customers.example.com\nsender=%s\n"
            "recipient=recipient%0*d@example.net\n"
            "recipient_count=%d\nqueue_id=\ninstance=%08lx.%0*d.0\nsize=18342\netrn_domain=\nstress=\n"
            "sasl_method=PLAIN\nsasl_username=%s%0*d%s\nsasl_sender=\nccert_subject=\nccert_issuer=\n"
            "ccert_fingerprint=D4:1D:8C:D9:8F:00:B2:04:E9:80:09:98:EC:F8:42:7E\n"
            "ccert_pubkey_fingerprint=E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24\n"
            "encryption_protocol=TLSv1.3\nencryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\n"
            "policy_context=\n\n",
            option.state, sender, RECIPIENT_DIGITS, 0, option.recipients, (long)option.seed,
            MAIL_DIGITS, 0, option.prefix, ID_DIGITS, 0, option.suffix);
    if (length < 0 || length >= REQUEST_BYTES) {
        errno = EMSGSIZE;
        die("request");
    }
    c->length = (size_t)length;
    c->name[0] = find(c->request, "\nsasl_username=");
    c->name[1] = option.domains ? NULL : find(c->request, "\nsender=");
    c->domain = option.domains ? find(c->request, "\nsender=bounces@") : NULL;
    c->mail = find(find(c->request, "\ninstance="), ".");
    c->recipient = find(c->request, "\nrecipient=recipient");
}

static void write_digits(char *to, int width, unsigned long value)
{
    while (width--) {
        to[width] = (char)('0' + value % 10);
        value /= 10;
    }
}

/* Makes the request of a new mail. */
static void renew(struct connection *c)
{
    size_t prefix = strlen(option.prefix);
    uint64_t mail = ++number;
    long id;
    c->spent = option.spent > 0 && (double)(draw() >> 11) / 9007199254740992.0 < option.spent;
    id = c->spent ? (long)(draw() % (uint64_t)option.spent_ids) : draw_id();
    for (int i = 0; i < NAMES && c->name[i]; i++) {
        memcpy(c->name[i], c->spent ? "over" : option.prefix, prefix);
        write_digits(c->name[i] + prefix, ID_DIGITS, (unsigned long)id);
    }
    if (c->domain)
        write_digits(c->domain, DOMAIN_DIGITS, (unsigned long)(id % option.domains));
    write_digits(c->mail, MAIL_DIGITS, mail);
    write_digits(c->recipient, RECIPIENT_DIGITS, mail);
    c->sent = c->got = 0;
    c->began = now_ns();
}

static int open_connection(void)
{
    int fd;
    if (option.path) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        strncpy(to.sun_path, option.path, sizeof to.sun_path - 1);
        if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0 || connect(fd, (void *)&to, sizeof to))
            die(option.path);
    } else {
        struct sockaddr_in to = {.sin_family = AF_INET};
        char host[64];
        unsigned port;
        int one = 1;
        if (sscanf(option.tcp, "%63[^:]:%u", host, &port) != 2 || inet_pton(AF_INET, host, &to.sin_addr) != 1) {
            errno = EINVAL;
            die(option.tcp);
        }
        to.sin_port = htons((uint16_t)port);
        if ((fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0 || connect(fd, (void *)&to, sizeof to))
            die(option.tcp);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    return fd;
}

static void give_up(struct connection *c)
{
    close(c->fd);
    c->fd = -1;
    broken++;
}

/* Sends what is left of the request; waits for room only when the kernel has none. */
static void push(int poll, struct connection *c)
{
    while (c->sent < c->length) {
        ssize_t n = send(c->fd, c->request + c->sent, c->length - c->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) {
            give_up(c);
            return;
        }
        if (n < 0)
            break;
        c->sent += (size_t)n;
    }
    int sending = c->sent < c->length;
    if (sending != c->sending) {
        struct epoll_event e = {.events = sending ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
        if (epoll_ctl(poll, EPOLL_CTL_MOD, c->fd, &e))
            die("epoll_ctl");
        c->sending = sending;
    }
}

static void judge(const struct connection *c, const char *text, int measuring, uint64_t took)
{
    int i;
    for (i = 0; i < actions && strcmp(action[i].text, text); i++)
        ;
    if (i == actions && actions < ACTIONS)
        action[actions++].text = strdup(text);
    if (i == ACTIONS || !(c->spent ? action[i].refusal : action[i].allowed)) {
        if (!wrong++)
            strcpy(first_wrong, text);
    }
    if (!measuring)
        return;
    if (i < ACTIONS)
        action[i].count++;
    if (measured == room && !(latency = realloc(latency, (room = room ? 2 * room : 1 << 16) * sizeof *latency)))
        die("memory");
    latency[measured++] = (uint32_t)(took / 1000);
}

/* --allow and --refuse */
static void expect(const char *text, int refusal)
{
    int i;
    for (i = 0; i < actions && strcmp(action[i].text, text); i++)
        ;
    if (i == ACTIONS) {
        errno = E2BIG;
        die(text);
    }
    actions += i == actions;
    action[i].text = text;
    action[i].allowed |= !refusal;
    action[i].refusal |= refusal;
}

/* Reads; 1 when the answer is complete. */
static int pull(struct connection *c, int measuring)
{
    ssize_t n = recv(c->fd, c->answer + c->got, ANSWER_BYTES - 1 - c->got, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0) {
        give_up(c);
        return 0;
    }
    c->got += (size_t)n;
    if (c->got < 2 || memcmp(c->answer + c->got - 2, "\n\n", 2)) {
        if (c->got == ANSWER_BYTES - 1)
            give_up(c);
        return 0;
    }
    c->answer[c->got - 2] = 0;
    judge(c, strncmp(c->answer, "action=", 7) ? c->answer : c->answer + 7, measuring, now_ns() - c->began);
    return 1;
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double milliseconds(double share)
{
    if (!measured)
        return 0;
    size_t rank = (size_t)ceil(share * (double)measured);
    return latency[rank ? rank - 1 : 0] / 1000.0;
}

static void print_text(const char *text)
{
    putchar('"');
    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        if (*p < 0x20 || *p == '"' || *p == '\\' || *p > 0x7e)
            printf("\\u%04x", *p);
        else
            putchar(*p);
    putchar('"');
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void usage(void)
{
    fputs("usage: load (--tcp IP:PORT | --unix PATH) [--connections N] [--ids N] [--prefix NAME] [--suffix TEXT] [--zipf EXPONENT]\n"
          "            [--spent SHARE] [--spent-ids N] [--domains N] [--small] [--state RCPT|DATA|END-OF-MESSAGE] [--recipients N]\n"
          "            [--warm-up S] [--seconds S] [--seed N] --allow ACTION ... [--refuse ACTION ...]\n", stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"tcp", 1, 0, 't'}, {"unix", 1, 0, 'u'}, {"connections", 1, 0, 'c'}, {"ids", 1, 0, 'i'},
        {"zipf", 1, 0, 'z'}, {"small", 0, 0, 'l'}, {"state", 1, 0, 'p'}, {"recipients", 1, 0, 'r'},
        {"warm-up", 1, 0, 'w'}, {"seconds", 1, 0, 's'}, {"seed", 1, 0, 'e'}, {"allow", 1, 0, 'a'}, {"refuse", 1, 0, 'f'},
        {"prefix", 1, 0, 'n'}, {"suffix", 1, 0, 'm'}, {"spent", 1, 0, 'x'}, {"spent-ids", 1, 0, 'd'},
        {"domains", 1, 0, 'o'}, {0, 0, 0, 0}};
    for (int o; (o = getopt_long(argc, argv, "", names, 0)) != -1;)
        switch (o) {
        case 't': option.tcp = optarg; break;
        case 'u': option.path = optarg; break;
        case 'c': option.connections = atoi(optarg); break;
        case 'i': option.ids = atol(optarg); break;
        case 'z': option.zipf = atof(optarg); break;
        case 'l': option.small = 1; break;
        case 'p': option.state = optarg; break;
        case 'r': option.recipients = atoi(optarg); break;
        case 'w': option.warm_up = atof(optarg); break;
        case 's': option.seconds = atof(optarg); break;
        case 'e': option.seed = strtoull(optarg, 0, 10); break;
        case 'n': option.prefix = optarg; break;
        case 'm': option.suffix = optarg; break;
        case 'x': option.spent = atof(optarg); break;
        case 'o': option.domains = atol(optarg); break;
        case 'd': option.spent_ids = atol(optarg); break;
        case 'a': expect(optarg, 0); break;
        case 'f': expect(optarg, 1); break;
        default: usage();
        }
    if (!option.tcp == !option.path || !actions || option.connections < 1 || option.ids < 1 || option.ids > 10000000
        || option.spent_ids < 1 || option.domains < 0 || option.domains > 99999 || (option.spent > 0 && strlen(option.prefix) != strlen("over")))
        usage();
    state = option.seed;
    if (option.zipf > 0) {
        double sum = 0;
        if (!(zipf_share = malloc((size_t)option.ids * sizeof *zipf_share)))
            die("memory");
        for (long i = 0; i < option.ids; i++)
            zipf_share[i] = sum += pow((double)(i + 1), -option.zipf);
        for (long i = 0; i < option.ids; i++)
            zipf_share[i] /= sum;
    }

    int poll = epoll_create1(EPOLL_CLOEXEC);
    struct connection *all = calloc((size_t)option.connections, sizeof *all);
    struct epoll_event *events = calloc((size_t)option.connections, sizeof *events);
    if (poll < 0 || !all || !events)
        die("start");
    for (int i = 0; i < option.connections; i++) {
        all[i].fd = open_connection();
        usleep(CONNECT_PAUSE_US); /* a server with a short backlog is not to lose any: that would cost it seconds */
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &all[i]};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &e))
            die("epoll_ctl");
    }
    for (int i = 0; i < option.connections; i++) {
        compose(&all[i]);
        renew(&all[i]);
        push(poll, &all[i]);
    }

    uint64_t begin = now_ns() + (uint64_t)(option.warm_up * 1e9), end = begin + (uint64_t)(option.seconds * 1e9), now;
    double cpu = cpu_seconds(), seconds = 0;
    uint64_t idle = 0;
    int warm = 0, over = 0;
    /* At the end it waits for what it has asked: to leave before the answer is another kind of load. */
    while ((now = now_ns()) < end + DRAIN_SECONDS * 1000000000ull && broken + idle < (uint64_t)option.connections) {
        if (!warm && now >= begin) {
            warm = 1;
            begin = now;
            cpu = cpu_seconds();
        }
        if (!over && now >= end) {
            over = 1;
            seconds = (double)(now - begin) / 1e9;
            cpu = cpu_seconds() - cpu;
        }
        int n = epoll_wait(poll, events, option.connections, 100);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd >= 0 && events[i].events & EPOLLOUT)
                push(poll, c);
            if (c->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT && pull(c, warm && !over)) {
                if (over) {
                    idle++;
                    continue;
                }
                renew(c);
                push(poll, c);
            }
        }
    }

    qsort(latency, measured, sizeof *latency, by_size);
    printf("{\"connections\": %d, \"ids\": %ld, \"request_bytes\": %zu, \"asked\": %llu, \"requests\": %zu, "
           "\"seconds\": %.3f, \"per_second\": %.1f, \"cpu\": %.3f, "
           "\"latency_ms\": {\"p50\": %.3f, \"p99\": %.3f, \"p99.9\": %.3f, \"max\": %.3f}, \"actions\": {",
        option.connections, option.ids, all[0].length, (unsigned long long)number, measured, seconds,
        seconds > 0 ? (double)measured / seconds : 0,
        seconds > 0 ? cpu / seconds : 0, milliseconds(.5), milliseconds(.99), milliseconds(.999), milliseconds(1));
    for (int i = 0; i < actions; i++) {
        printf("%s", i ? ", " : "");
        print_text(action[i].text);
        printf(": %llu", (unsigned long long)action[i].count);
    }
    printf("}, \"wrong\": %llu, \"first_wrong\": ", (unsigned long long)wrong);
    print_text(first_wrong);
    printf(", \"broken\": %llu}\n", (unsigned long long)broken);
    return wrong || broken ? 1 : 0;
}
