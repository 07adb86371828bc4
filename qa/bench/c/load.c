// Load client for sim.c: one thread, epoll, loopback only, closed loop. Prints one JSON line.
//
//   load -p PORT -b BODY [-P /path] [-H 'k: v'] [-c CONNS] [-d SECONDS] [-w WARM_S] [-r RAMP_MS]
//      [-N REQUESTS]          stop after so many (then -d is the time limit)
//      [-s -n DELTAS -m MS -k TOOL_DELTAS]   streams; every 4th one carries tool-call deltas
//      [-X]                   open CONNS streams, wait until each had a delta, drop them all (half FIN, half RST)
//
// Each request gets its own nonce, patched into the body's markers (see sim.c). Each response is checked:
// status, framing, JSON balanced, the request's own nonce echoed, the tool call there, the finish reason right;
// of a stream also: every delta there and in order, one tool name, usage, [DONE] once and last.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

typedef struct {
  uint32_t *v;
  size_t n, cap;
} samples;
enum { IDLE, SEND, RECV };
enum { E_CONNECT, E_STATUS, E_BODY, E_EOF, E_PARSE, E_KINDS };
typedef struct conn {
  int fd, state, want_out, waiting, close_after, head, status, chunked, chunk_stage;
  long length, got, chunk_left;
  size_t sent, req_len;
  char *req, *in, *text;
  size_t in_len, in_cap, text_len, text_cap;
  int64_t t0, due, last_stamp;
  char nonce[17];
  int tools, first, deltas, done, finish, names, echoed, usage, damaged;
} conn;

static int ep, port, C = 1, streams, deltas_want = 100, delta_ms = 20, tool_deltas, drop_mode;
static double D = 3, W = .3;
static long N = -1, begun;
static char *tmpl;
static size_t tmpl_len, head_len, at_req, at_end;
static samples lat, ttft, hop;
static long all_done, in_window, errors, kinds[E_KINDS], all_deltas, window_deltas, dials;
static int64_t win_start, win_end;
static char why[256];

static int64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}
static void add(samples *s, int64_t x) {
  if (s->n == s->cap) {
    s->cap = s->cap ? s->cap * 2 : 4096;
    s->v = realloc(s->v, s->cap * 4);
  }
  s->v[s->n++] = x < 0 ? 0 : x > 4000000000LL ? 4000000000U : x;
}
static int by_size(const void *a, const void *b) {
  uint32_t x = *(uint32_t *)a, y = *(uint32_t *)b;
  return x < y ? -1 : x > y;
}
static double pct(samples *s, double p) { return s->n ? (double)s->v[(size_t)(p * (s->n - 1))] : -1; }

static void watch(conn *c, int out) {
  if (c->want_out == out) return;
  struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
  epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
  c->want_out = out;
}
static void hang_up(conn *c) {
  if (c->fd >= 0) {
    epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, 0);
    close(c->fd);
    c->fd = -1;
  }
}
static void fail(conn *c, int kind, const char *what) {
  if (!errors++)
    snprintf(why, sizeof why, "%s (status %d, %d of %d deltas, finish %d, done %d, echoed %d, names %d, usage %d)",
             what, c->status, c->deltas, deltas_want, c->finish, c->done, c->echoed, c->names, c->usage);
  kinds[kind]++;
  hang_up(c);
  c->state = IDLE;
  c->due = now_us() + 20000;
  c->waiting = 1;
}
static void send_more(conn *c) {
  while (c->sent < c->req_len) {
    ssize_t r = write(c->fd, c->req + c->sent, c->req_len - c->sent);
    if (r < 0) {
      if (errno == EAGAIN || errno == ENOTCONN)
        watch(c, 1);
      else
        fail(c, E_EOF, "write failed");
      return;
    }
    c->sent += r;
  }
  watch(c, 0);
  c->state = RECV;
}
static void begin(conn *c) {
  if (now_us() >= win_end || (N >= 0 && begun >= N)) {
    c->state = IDLE;
    return;
  }
  c->tools = streams && begun % 4 == 3 ? tool_deltas : 0;
  static uint64_t salt;
  if (!salt) salt = (uint64_t)now_us() << 24;
  sprintf(c->nonce, "%016llx", (unsigned long long)(salt + (uint64_t)begun++));
  char m[40];
  sprintf(m, "%s n%04d d%04d k%04d.", c->nonce, deltas_want, delta_ms, c->tools);
  memcpy(c->req + at_req, m, strlen(m));
  memcpy(c->req + at_end, c->nonce, 16);
  c->sent = c->in_len = c->text_len = 0;
  c->length = -1;
  c->got = c->chunk_left = 0;
  c->last_stamp = 0;
  c->head = c->status = c->chunked = c->chunk_stage = c->close_after = c->first = c->deltas = c->done = c->finish =
      c->names = c->echoed = c->usage = c->damaged = 0;
  c->t0 = now_us();
  c->state = SEND;
  if (c->fd < 0) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    dials++;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    c->want_out = 1;
    int r = connect(c->fd, (void *)&a, sizeof a);
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    if (r < 0 && errno != EINPROGRESS) {
      fail(c, E_CONNECT, "connect failed");
      return;
    }
  }
  send_more(c);
}

// ---- checks
static int balanced(const char *s, size_t n) { // one JSON object: brackets match, strings are closed
  char open[64];
  int depth = 0, in_string = 0;
  const char *e = s + n;
  while (e > s && (unsigned char)e[-1] <= ' ') e--;
  if (s == e || *s != '{') return 0;
  for (; s < e; s++) {
    if (in_string) {
      if (*s == '\\')
        s++;
      else if (*s == '"')
        in_string = 0;
    } else if (*s == '"')
      in_string = 1;
    else if (*s == '{' || *s == '[') {
      if (depth == 64) return 0;
      open[depth++] = *s + 2;
    } // '{' + 2 is '}', '[' + 2 is ']'
    else if (*s == '}' || *s == ']') {
      if (!depth || open[--depth] != *s || (!depth && s + 1 != e)) return 0;
    }
  }
  return depth == 0 && !in_string;
}
static int count(const char *s, size_t n, const char *what) {
  int k = 0;
  size_t w = strlen(what);
  const char *e = s + n;
  while ((s = memmem(s, e - s, what, w))) {
    k++;
    s += w;
  }
  return k;
}
static int finish_reason(const char *s, size_t n) { // 0 none or null, 1 stop, 2 tool_calls, 3 another
  char *p = memmem(s, n, "\"finish_reason\":", 16);
  if (!p) return 0;
  for (p += 16; *p == ' ';) p++;
  return !strncmp(p, "null", 4) ? 0 : !strncmp(p, "\"stop\"", 6) ? 1 : !strncmp(p, "\"tool_calls\"", 12) ? 2 : 3;
}
static int echoes(conn *c, const char *s, size_t n) {
  char w[24];
  sprintf(w, "ans:%s", c->nonce);
  return count(s, n, w);
}
static void event(conn *c, char *s, size_t n, int64_t t) { // s: what follows "data:" on one line
  while (n && *s == ' ') {
    s++;
    n--;
  }
  while (n && s[n - 1] == '\r') n--;
  if (!c->first) {
    c->first = 1;
    if (t >= win_start) add(&ttft, t - c->t0);
  }
  if (c->done) c->damaged = 1;
  if (n == 6 && !memcmp(s, "[DONE]", 6)) {
    c->done++;
    return;
  }
  if (!balanced(s, n)) {
    c->damaged = 1;
    return;
  }
  for (char *p = s, *e = s + n; (p = memmem(p, e - p, " t", 2)); p += 2) {
    int64_t stamp = 0;
    int k = 0;
    while (k < 16 && p + 2 + k < e && p[2 + k] >= '0' && p[2 + k] <= '9') stamp = stamp * 10 + p[2 + k++] - '0';
    if (k < 16) continue;
    if (stamp < c->last_stamp) c->damaged = 1;
    c->last_stamp = stamp;
    c->deltas++;
    all_deltas++;
    if (t >= win_start && t < win_end) {
      window_deltas++;
      add(&hop, t - stamp);
    }
  }
  int f = finish_reason(s, n);
  if (f) c->finish = c->finish ? 3 : f;
  if (!c->echoed) c->echoed = echoes(c, s, n);
  if (memmem(s, n, "\"read_file\"", 11)) c->names++;
  if (memmem(s, n, "\"completion_tokens\"", 19)) c->usage++;
}
static void payload(conn *c, const char *s, size_t n) {
  c->got += n;
  if (c->text_len + n + 1 > c->text_cap) {
    c->text_cap = (c->text_len + n) * 2 + 4096;
    c->text = realloc(c->text, c->text_cap);
  }
  memcpy(c->text + c->text_len, s, n);
  c->text_len += n;
  c->text[c->text_len] = 0;
  if (!streams || c->status != 200) return;
  char *l = c->text, *e = c->text + c->text_len;
  int64_t t = now_us();
  for (char *x; (x = memchr(l, '\n', e - l)); l = x + 1)
    if (x - l > 5 && !memcmp(l, "data:", 5)) event(c, l + 5, x - l - 5, t);
  c->text_len = e - l;
  memmove(c->text, l, c->text_len + 1);
}
static void finished(conn *c) {
  int64_t t = now_us();
  if (c->status != 200) {
    fail(c, E_STATUS, "not 200");
    return;
  }
  if (!streams) {
    c->echoed = echoes(c, c->text, c->text_len);
    c->names = count(c->text, c->text_len, "\"read_file\"");
    c->finish = finish_reason(c->text, c->text_len);
    c->damaged = !balanced(c->text, c->text_len);
    c->usage = count(c->text, c->text_len, "\"completion_tokens\":") > 0;
  }
  int tools = !streams || c->tools > 0;
  if (c->damaged || c->echoed != 1 || c->names != tools || c->finish != (tools ? 2 : 1) || !c->usage ||
      (streams && (c->done != 1 || c->deltas != deltas_want))) {
    fail(c, E_BODY, "answer damaged");
    return;
  }
  all_done++;
  if (t >= win_start && t < win_end) {
    in_window++;
    add(&lat, t - c->t0);
  }
  if (c->close_after) hang_up(c);
  begin(c);
}
static void parse(conn *c) {
  if (!c->head) {
    char *e = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!e) {
      if (c->in_len > 65536) fail(c, E_PARSE, "no head");
      return;
    }
    c->status = c->in_len > 12 ? atoi(c->in + 9) : 0;
    for (char *l = c->in; l < e; l = (char *)memmem(l, e + 2 - l, "\r\n", 2) + 2) {
      if (!strncasecmp(l, "content-length:", 15))
        c->length = atol(l + 15);
      else if (!strncasecmp(l, "transfer-encoding:", 18))
        c->chunked = 1;
      else if (!strncasecmp(l, "connection: close", 17))
        c->close_after = 1;
    }
    size_t h = e + 4 - c->in;
    c->in_len -= h;
    memmove(c->in, c->in + h, c->in_len);
    c->head = 1;
  }
  if (!c->chunked) {
    if (c->length >= 0 && c->got + (long)c->in_len > c->length) {
      fail(c, E_PARSE, "more than content-length");
      return;
    }
    if (c->in_len) payload(c, c->in, c->in_len);
    c->in_len = 0;
    if (c->length >= 0 && c->got == c->length) finished(c);
    return;
  }
  char *p = c->in, *e = p + c->in_len, *x;
  int fin = 0;
  while (p < e && !fin) {
    if (c->chunk_stage == 1) {
      long k = e - p < c->chunk_left ? e - p : c->chunk_left;
      payload(c, p, k);
      p += k;
      if (!(c->chunk_left -= k)) c->chunk_stage = 2;
    } else {
      if (!(x = memchr(p, '\n', e - p))) break;
      if (c->chunk_stage == 0) {
        c->chunk_left = strtol(p, 0, 16);
        c->chunk_stage = c->chunk_left ? 1 : 3;
      } else if (c->chunk_stage == 2)
        c->chunk_stage = 0;
      else
        fin = 1;
      p = x + 1;
    }
  }
  c->in_len = e - p;
  memmove(c->in, p, c->in_len);
  if (fin) {
    if (c->in_len)
      fail(c, E_PARSE, "bytes after the end");
    else
      finished(c);
  }
}
static void readable(conn *c) {
  if (c->in_cap - c->in_len < 16384) {
    c->in_cap *= 2;
    c->in = realloc(c->in, c->in_cap);
  }
  ssize_t r = read(c->fd, c->in + c->in_len, c->in_cap - c->in_len);
  if (r > 0) {
    c->in_len += r;
    if (c->state == IDLE)
      fail(c, E_PARSE, "bytes without a request");
    else
      parse(c);
  } else if (r == 0 && c->state == RECV && c->head && !c->chunked && c->length < 0) {
    c->close_after = 1;
    finished(c);
  } else if (r == 0 && c->state == IDLE)
    hang_up(c);
  else if (r == 0)
    fail(c, E_EOF, c->head ? "closed inside the answer" : "closed before the answer");
  else if (errno != EAGAIN)
    fail(c, c->head ? E_EOF : E_CONNECT, strerror(errno));
}
static void load(const char *file, const char *path, const char *headers) {
  FILE *f = fopen(file, "rb");
  if (!f) {
    perror(file);
    exit(2);
  }
  fseek(f, 0, SEEK_END);
  long n = ftell(f);
  rewind(f);
  tmpl = malloc(n + 4096);
  head_len = sprintf(tmpl,
                     "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAuthorization: "
                     "Bearer sk-1234\r\nUser-Agent: load/1\r\nAccept: */*\r\n%sContent-Length: %ld\r\n\r\n",
                     path, port, headers, n);
  if (fread(tmpl + head_len, 1, n, f) != (size_t)n) exit(2);
  fclose(f);
  tmpl_len = head_len + n;
  char *a = memmem(tmpl, tmpl_len, "req:", 4), *b = memmem(tmpl, tmpl_len, "end:", 4);
  if (!a || !b) {
    fprintf(stderr, "%s has no markers\n", file);
    exit(2);
  }
  at_req = a + 4 - tmpl;
  at_end = b + 4 - tmpl;
}
int main(int argc, char **argv) {
  const char *file = 0, *path = "/v1/chat/completions";
  char headers[2048] = "";
  int ramp = 0, o;
  signal(SIGPIPE, SIG_IGN);
  struct rlimit rl;
  getrlimit(RLIMIT_NOFILE, &rl);
  rl.rlim_cur = rl.rlim_max;
  setrlimit(RLIMIT_NOFILE, &rl);
  while ((o = getopt(argc, argv, "p:b:P:H:c:d:w:r:N:sn:m:k:X")) > 0) switch (o) {
      case 'p': port = atoi(optarg); break;
      case 'b': file = optarg; break;
      case 'P': path = optarg; break;
      case 'H':
        strncat(headers, optarg, 500);
        strcat(headers, "\r\n");
        break;
      case 'c': C = atoi(optarg); break;
      case 'd': D = atof(optarg); break;
      case 'w': W = atof(optarg); break;
      case 'r': ramp = atoi(optarg); break;
      case 'N':
        N = atol(optarg);
        W = 0;
        break;
      case 's': streams = 1; break;
      case 'n': deltas_want = atoi(optarg); break;
      case 'm': delta_ms = atoi(optarg); break;
      case 'k': tool_deltas = atoi(optarg); break;
      case 'X':
        drop_mode = streams = 1;
        W = 0;
        break;
      default: return 2;
    }
  if (!file || !port || C < 1 || C > 2000 || D > 600) {
    fprintf(stderr, "usage: see the head of load.c\n");
    return 2;
  }
  load(file, path, headers);
  ep = epoll_create1(0);
  conn *cs = calloc(C, sizeof *cs);
  int64_t start = now_us();
  win_start = start + (int64_t)(W * 1e6);
  win_end = win_start + (int64_t)(D * 1e6);
  int64_t hard = win_end + (drop_mode || N >= 0 ? 0 : streams ? 6000000 : 3000000);
  for (int i = 0; i < C; i++) {
    conn *c = &cs[i];
    c->fd = -1;
    c->in = malloc(c->in_cap = 32768);
    c->req = malloc(c->req_len = tmpl_len);
    memcpy(c->req, tmpl, tmpl_len);
    c->waiting = 1;
    c->due = start + (int64_t)ramp * 1000 * i / C;
  }
  struct epoll_event ev[512];
  for (;;) {
    int64_t t = now_us(), next = t + 50000;
    int active = 0, fed = 0;
    for (int i = 0; i < C; i++) {
      conn *c = &cs[i];
      if (c->waiting && c->due <= t) {
        c->waiting = 0;
        begin(c);
      }
      if (c->waiting && c->due < next) next = c->due;
      active += c->state != IDLE || c->waiting;
      fed += c->deltas > 0;
    }
    if (!active || t >= hard || (drop_mode && fed == C)) break;
    int ms = (next - now_us() + 999) / 1000, k = epoll_wait(ep, ev, 512, ms < 0 ? 0 : ms);
    for (int i = 0; i < k; i++) {
      conn *c = ev[i].data.ptr;
      if (c->fd >= 0 && c->state == SEND && ev[i].events & EPOLLOUT) send_more(c);
      if (c->fd >= 0 && ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
    }
  }
  int64_t stop = now_us();
  int hung = 0, fed = 0;
  for (int i = 0; i < C; i++) {
    hung += cs[i].state != IDLE;
    fed += cs[i].deltas > 0;
  }
  if (drop_mode)
    for (int i = 0; i < C; i++)
      if (cs[i].fd >= 0) {
        struct linger l = {1, 0};
        if (i & 1) setsockopt(cs[i].fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
        close(cs[i].fd);
      }
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  double cpu = u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6,
         took = N >= 0 ? (stop - start) / 1e6 : D;
  samples *s[] = {&lat, &ttft, &hop};
  for (int i = 0; i < 3; i++) qsort(s[i]->v, s[i]->n, 4, by_size);
  printf("{\"rps\":%.1f,\"all\":%ld,\"err\":%ld,\"kinds\":[%ld,%ld,%ld,%ld,%ld],\"hung\":%d,\"dials\":%ld,\"lat50\":%."
         "0f,\"lat99\":%.0f,",
         in_window / took, all_done, errors, kinds[0], kinds[1], kinds[2], kinds[3], kinds[4], drop_mode ? 0 : hung,
         dials, pct(&lat, .5), pct(&lat, .99));
  printf("\"events\":%ld,\"ev_s\":%.1f,\"ttft50\":%.0f,\"ttft99\":%.0f,\"hop50\":%.0f,\"hop99\":%.0f,\"fed\":%d,\"cpu_"
         "s\":%.3f,\"wall_s\":%.3f,\"why\":\"",
         all_deltas, window_deltas / D, pct(&ttft, .5), pct(&ttft, .99), pct(&hop, .5), pct(&hop, .99), fed, cpu,
         (stop - start) / 1e6);
  for (char *p = why; *p; p++)
    if (*p >= ' ' && *p != '"' && *p != '\\') putchar(*p);
  printf("\"}\n");
  return 0;
}
