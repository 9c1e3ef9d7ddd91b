import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.common.eventtime.WatermarkGenerator;
import org.apache.flink.api.common.eventtime.WatermarkOutput;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.functions.CoGroupFunction;
import org.apache.flink.api.common.functions.JoinFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.serialization.SerializerConfigImpl;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.minicluster.MiniCluster;
import org.apache.flink.runtime.minicluster.MiniClusterConfiguration;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.datastream.WindowedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.ProcessFunction;
import org.apache.flink.streaming.api.functions.co.KeyedCoProcessFunction;
import org.apache.flink.streaming.api.functions.co.ProcessJoinFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.functions.windowing.delta.DeltaFunction;
import org.apache.flink.streaming.api.windowing.assigners.DynamicEventTimeSessionWindows;
import org.apache.flink.streaming.api.windowing.assigners.EventTimeSessionWindows;
import org.apache.flink.streaming.api.windowing.assigners.GlobalWindows;
import org.apache.flink.streaming.api.windowing.assigners.SessionWindowTimeGapExtractor;
import org.apache.flink.streaming.api.operators.co.IntervalJoinOperator;
import org.apache.flink.streaming.api.windowing.assigners.SlidingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.WindowAssigner;
import org.apache.flink.streaming.api.windowing.triggers.ContinuousEventTimeTrigger;
import org.apache.flink.streaming.api.windowing.triggers.CountTrigger;
import org.apache.flink.streaming.api.windowing.triggers.DeltaTrigger;
import org.apache.flink.streaming.api.windowing.triggers.EventTimeTrigger;
import org.apache.flink.streaming.api.windowing.triggers.PurgingTrigger;
import org.apache.flink.streaming.api.windowing.triggers.Trigger;
import org.apache.flink.streaming.api.windowing.windows.GlobalWindow;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

/**
 * Computes the goldens of the cases with `#: oracle flink` by Flink's DataStream API: `./dev oracle`.
 *
 * <p>Usage: Oracle CASES. Each case of {@link #pipeline} reads the input files of `CASES/NAME` and writes
 * `CASES/NAME/expected/SINK.ndjson`. Parallelism 1 and a watermark after each event (its largest time, minus the delay,
 * minus 1) make the result one of the input alone, as `ticks: batch` with batches of one row does in Tidemill.
 * The settings of a case stand here and in its pipeline.yaml.
 */
public class Oracle {
  /** Rows by sink, filled by the job in this process. */
  static final Map<String, List<String>> ROWS = new TreeMap<>();

  static final OutputTag<Row> LATE = new OutputTag<>("late", TypeInformation.of(Row.class));

  /** The columns of all cases: `k,t,v` of window cases, `k,t,action,at` of timer cases. */
  public static class Row {
    public String k;
    public long t;
    public double v;
    public String action;
    public long at;
    public String side;

    public Row() {}
  }

  public static void main(String[] args) throws Exception {
    Path cases = Path.of(args[0]);
    Configuration settings = new Configuration();
    settings.setString("rest.port", "0");
    settings.setString("rest.bind-port", "0");
    settings.setString("taskmanager.memory.managed.size", "64m");
    MiniClusterConfiguration cluster =
        new MiniClusterConfiguration.Builder()
            .setConfiguration(settings)
            .setNumTaskManagers(1)
            .setNumSlotsPerTaskManager(1)
            .build();
    try (MiniCluster running = new MiniCluster(cluster)) {
      running.start();
      for (Path dir : withOracle(cases)) {
        ROWS.clear();
        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment(settings);
        env.setParallelism(1);
        pipeline(env, dir);
        running.executeJobBlocking(env.getStreamGraph().getJobGraph());
        write(dir.resolve("expected"));
      }
    }
    System.exit(0);
  }

  static List<Path> withOracle(Path cases) throws IOException {
    List<Path> found = new ArrayList<>();
    try (var dirs = Files.newDirectoryStream(cases)) {
      for (Path dir : dirs) {
        Path pipeline = dir.resolve("pipeline.yaml");
        if (Files.exists(pipeline) && Files.readAllLines(pipeline).contains("#: oracle flink")) found.add(dir);
      }
    }
    found.sort(null);
    return found;
  }

  static void pipeline(StreamExecutionEnvironment env, Path dir) throws IOException {
    String name = dir.getFileName().toString();
    switch (name) {
      case "flink-window-aggregates" -> windows(rows(env, dir, "rows", 1000), seconds(5), 0, 0);
      case "flink-window-allowed-lateness" -> windows(rows(env, dir, "rows", 500), seconds(5), 0, seconds(3));
      case "flink-window-negative-times" -> windows(rows(env, dir, "rows", 2000), seconds(7), -seconds(2), 0);
      case "flink-window-exact-times" -> windows(rows(env, dir, "rows", 100), seconds(1), 0, 250);
      case "flink-window-sliding" -> windows(rows(env, dir, "rows", 1000), sliding(seconds(10), seconds(2), 0), 0);
      case "flink-window-sliding-lateness" ->
          windows(rows(env, dir, "rows", 500), sliding(5000, 3000, -1000), seconds(3));
      case "flink-window-sliding-gaps" -> windows(rows(env, dir, "rows", 500), sliding(1500, 4000, 250), 700);
      case "flink-window-session" -> windows(rows(env, dir, "rows", 1500), session(1000), 0);
      case "flink-window-session-lateness" -> windows(rows(env, dir, "rows", 300), session(700), 2000);
      case "flink-window-session-dynamic" ->
          windows(rows(env, dir, "rows", 800), DynamicEventTimeSessionWindows.withDynamicGap(new OwnGap()), 500);
      case "flink-window-count" ->
          global(rows(env, dir, "rows", 0), PurgingTrigger.of(CountTrigger.<GlobalWindow>of(10)));
      case "flink-window-global-count" -> global(rows(env, dir, "rows", 0), CountTrigger.of(7));
      case "flink-window-global-end" -> global(rows(env, dir, "rows", 0), null);
      case "flink-window-trigger-delta" ->
          global(rows(env, dir, "rows", 0), DeltaTrigger.of(6.5, new Difference(), TypeInformation.of(Row.class)
              .createSerializer(new SerializerConfigImpl())));
      case "flink-window-trigger-count" ->
          windows(rows(env, dir, "rows", 700), tumbling(3000), 1000, CountTrigger.of(4));
      case "flink-window-trigger-purge" ->
          windows(rows(env, dir, "rows", 700), sliding(4000, 2000, 0), 0,
              PurgingTrigger.of(CountTrigger.<TimeWindow>of(3)));
      case "flink-window-trigger-continuous" ->
          windows(rows(env, dir, "rows", 400), tumbling(5000), 2000,
              ContinuousEventTimeTrigger.of(Duration.ofMillis(1500)));
      case "flink-window-trigger-session" ->
          windows(rows(env, dir, "rows", 600), session(900), 0, ContinuousEventTimeTrigger.of(Duration.ofMillis(700)));
      case "flink-window-trigger-session-count" ->
          windows(rows(env, dir, "rows", 600), session(900), 0, CountTrigger.of(5));
      case "flink-window-trigger-end-purge" ->
          windows(rows(env, dir, "rows", 300), tumbling(2000), 3000, PurgingTrigger.of(EventTimeTrigger.create()));
      case "flink-windows-of-windows" -> windowsOfWindows(rows(env, dir, "rows", 1000));
      case "flink-union" -> windows(
          rows(env, dir, "slow", 5000).union(rows(env, dir, "fast", 1000), rows(env, dir, "short", 0)),
          seconds(5), 0, 0);
      case "flink-timers", "flink-timers-at-random" -> scripted(rows(env, dir, "steps", 0), "out");
      case "flink-timers-behind-a-delay" -> scripted(rows(env, dir, "steps", 50), "out");
      case "flink-two-inputs" -> patience(rows(env, dir, "orders", 3000), rows(env, dir, "payments", 3000));
      case "flink-join-interval" -> {
        var pairs = interval(rows(env, dir, "left", 4000), rows(env, dir, "right", 4000), -2000, 1000, true);
        sink(pairs.map(Pair::json), "out");
        counts(pairs, "counts");
      }
      case "flink-join-interval-past" -> sink(
          interval(rows(env, dir, "left", 4000), rows(env, dir, "right", 4000), -3000, -500, false).map(Pair::json),
          "out");
      case "flink-join-interval-late" -> {
        DataStream<Row> steps = rows(env, dir, "steps", 400);
        lateInterval(steps, "near", -300, 200);
        lateInterval(steps, "equal", 0, 0);
        lateInterval(steps, "past", -900, -200);
        lateInterval(steps, "future", 100, 700);
      }
      case "flink-join-window" -> {
        var joined = rows(env, dir, "left", 4000).join(rows(env, dir, "right", 4000))
            .where(row -> row.k).equalTo(row -> row.k)
            .window(TumblingEventTimeWindows.of(Duration.ofMillis(3000), Duration.ofMillis(-500)))
            .apply(new Both());
        sink(joined.map(Pair::json), "out");
        counts(joined, "counts");
      }
      case "flink-join-window-sliding" -> sink(
          rows(env, dir, "left", 4000).coGroup(rows(env, dir, "right", 4000))
              .where(row -> row.k).equalTo(row -> row.k)
              .window(sliding(5000, 2000, 0))
              .apply(new Full())
              .map(Pair::json),
          "out");
      case "flink-join-window-late" -> {
        DataStream<Row> steps = rows(env, dir, "steps", 400);
        lateWindow(steps, "tumbling", sliding(500, 500, 0));
        lateWindow(steps, "sliding", sliding(900, 300, 100));
        lateWindow(steps, "gaps", sliding(200, 700, 0));
      }
      default -> throw new IllegalArgumentException("the oracle does not know the case " + name);
    }
  }

  static long seconds(long n) {
    return n * 1000;
  }

  // --- sources ---------------------------------------------------------------------------------

  static DataStream<Row> rows(StreamExecutionEnvironment env, Path dir, String file, long delay) throws IOException {
    List<String> lines = Files.readAllLines(dir.resolve(file + ".csv"));
    String[] header = lines.get(0).split(",");
    List<Row> rows = new ArrayList<>();
    for (String line : lines.subList(1, lines.size())) rows.add(row(header, line.split(",", -1)));
    WatermarkStrategy<Row> strategy =
        WatermarkStrategy.<Row>forGenerator(context -> new EachEvent(delay))
            .withTimestampAssigner((row, before) -> row.t);
    return env.fromData(rows, TypeInformation.of(Row.class)).assignTimestampsAndWatermarks(strategy);
  }

  static Row row(String[] header, String[] fields) {
    Row row = new Row();
    for (int i = 0; i < header.length; i++) {
      if (fields[i].isEmpty()) continue;
      switch (header[i]) {
        case "k" -> row.k = fields[i];
        case "t" -> row.t = Long.parseLong(fields[i]);
        case "v" -> row.v = Double.parseDouble(fields[i]);
        case "action" -> row.action = fields[i];
        case "side" -> row.side = fields[i];
        case "at" -> row.at = Long.parseLong(fields[i]);
        default -> throw new IllegalArgumentException("column " + header[i]);
      }
    }
    return row;
  }

  /** A watermark after each event. */
  static class EachEvent implements WatermarkGenerator<Row> {
    final long delay;
    long max = Long.MIN_VALUE;

    EachEvent(long delay) {
      this.delay = delay;
    }

    @Override
    public void onEvent(Row row, long time, WatermarkOutput output) {
      max = Math.max(max, time);
      output.emitWatermark(new Watermark(max - delay - 1));
    }

    @Override
    public void onPeriodicEmit(WatermarkOutput output) {}
  }

  // --- windows ---------------------------------------------------------------------------------

  static void windows(DataStream<Row> rows, long size, long offset, long lateness) {
    windows(rows, TumblingEventTimeWindows.of(Duration.ofMillis(size), Duration.ofMillis(offset)), lateness);
  }

  static WindowAssigner<Object, TimeWindow> sliding(long size, long slide, long offset) {
    return SlidingEventTimeWindows.of(Duration.ofMillis(size), Duration.ofMillis(slide), Duration.ofMillis(offset));
  }

  static WindowAssigner<Object, TimeWindow> tumbling(long size) {
    return TumblingEventTimeWindows.of(Duration.ofMillis(size));
  }

  static WindowAssigner<Object, TimeWindow> session(long gap) {
    return EventTimeSessionWindows.withGap(Duration.ofMillis(gap));
  }

  /** The gap of a row is in its value. */
  static class OwnGap implements SessionWindowTimeGapExtractor<Row> {
    @Override
    public long extract(Row row) {
      return (long) (100 + Math.abs(row.v) * 150);
    }
  }

  static class Difference implements DeltaFunction<Row> {
    @Override
    public double getDelta(Row before, Row now) {
      return Math.abs(now.v - before.v);
    }
  }

  /** Without a trigger: at the end of the input. */
  static void global(DataStream<Row> rows, Trigger<? super Row, ? super GlobalWindow> trigger) {
    WindowedStream<Row, String, GlobalWindow> windowed =
        trigger == null
            ? rows.keyBy(row -> row.k).window(GlobalWindows.createWithEndOfStreamTrigger())
            : rows.keyBy(row -> row.k).window(GlobalWindows.create()).trigger(trigger);
    sink(windowed.aggregate(new Aggregate(), new ShowGlobal()), "out");
  }

  static void windows(DataStream<Row> rows, WindowAssigner<? super Row, TimeWindow> assigner, long lateness) {
    windows(rows, assigner, lateness, EventTimeTrigger.create());
  }

  static void windows(
      DataStream<Row> rows,
      WindowAssigner<? super Row, TimeWindow> assigner,
      long lateness,
      Trigger<? super Row, ? super TimeWindow> trigger) {
    SingleOutputStreamOperator<String> fired =
        rows.keyBy(row -> row.k)
            .window(assigner)
            .trigger(trigger)
            .allowedLateness(Duration.ofMillis(lateness))
            .sideOutputLateData(LATE)
            .aggregate(new Aggregate(), new Show());
    sink(fired, "out");
    sink(fired.getSideOutput(LATE).map(Oracle::json), "late");
  }

  static void windowsOfWindows(DataStream<Row> rows) {
    SingleOutputStreamOperator<Row> counts =
        rows.keyBy(row -> row.k)
            .window(TumblingEventTimeWindows.of(Duration.ofSeconds(2)))
            .sideOutputLateData(LATE)
            .aggregate(new Aggregate(), new Rows());
    sink(counts.getSideOutput(LATE).map(Oracle::json), "late");
    windows(counts, seconds(10), 0, 0);
  }

  static String json(Row row) {
    return String.format("{\"k\":\"%s\",\"t\":%d,\"v\":%s}", row.k, row.t, row.v);
  }

  public static class Sums {
    public long rows;
    public double sum;
    public double low = Double.POSITIVE_INFINITY;
    public double high = Double.NEGATIVE_INFINITY;

    public Sums() {}
  }

  static class Aggregate implements AggregateFunction<Row, Sums, Sums> {
    @Override
    public Sums createAccumulator() {
      return new Sums();
    }

    @Override
    public Sums add(Row row, Sums sums) {
      sums.rows++;
      sums.sum += row.v;
      sums.low = Math.min(sums.low, row.v);
      sums.high = Math.max(sums.high, row.v);
      return sums;
    }

    @Override
    public Sums getResult(Sums sums) {
      return sums;
    }

    @Override
    public Sums merge(Sums left, Sums right) {
      left.rows += right.rows;
      left.sum += right.sum;
      left.low = Math.min(left.low, right.low);
      left.high = Math.max(left.high, right.high);
      return left;
    }
  }

  static class Show extends ProcessWindowFunction<Sums, String, String, TimeWindow> {
    @Override
    public void process(String k, Context context, Iterable<Sums> all, Collector<String> out) {
      Sums s = all.iterator().next();
      out.collect(
          String.format(
              "{\"k\":\"%s\",\"start\":%d,\"end\":%d,\"rows\":%d,\"sum\":%s,\"low\":%s,\"high\":%s,\"mean\":%s}",
              k, context.window().getStart(), context.window().getEnd(), s.rows, s.sum, s.low, s.high, s.sum / s.rows));
    }
  }

  static class ShowGlobal extends ProcessWindowFunction<Sums, String, String, GlobalWindow> {
    @Override
    public void process(String k, Context context, Iterable<Sums> all, Collector<String> out) {
      Sums s = all.iterator().next();
      out.collect(
          String.format(
              "{\"k\":\"%s\",\"rows\":%d,\"sum\":%s,\"low\":%s,\"high\":%s,\"mean\":%s}",
              k, s.rows, s.sum, s.low, s.high, s.sum / s.rows));
    }
  }

  /** A window as a row of the next: its count is the value. The row's own time shows when it fired. */
  static class Rows extends ProcessWindowFunction<Sums, Row, String, TimeWindow> {
    @Override
    public void process(String k, Context context, Iterable<Sums> all, Collector<Row> out) {
      Row row = new Row();
      row.k = k;
      row.t = context.window().maxTimestamp();
      row.v = all.iterator().next().rows;
      out.collect(row);
    }
  }

  // --- timers ----------------------------------------------------------------------------------

  static void scripted(DataStream<Row> steps, String sink) {
    sink(steps.keyBy(row -> row.k).process(new Scripted()), sink);
  }

  /** What the operator `scripted` of tests/operators does. */
  static class Scripted extends KeyedProcessFunction<String, Row, String> {
    transient ValueState<Long> seen;
    transient ValueState<Long> repeat;
    transient ValueState<Integer> left;
    transient ValueState<Long> cancel;

    @Override
    public void open(OpenContext context) {
      seen = getRuntimeContext().getState(new ValueStateDescriptor<>("seen", Types.LONG));
      repeat = getRuntimeContext().getState(new ValueStateDescriptor<>("repeat", Types.LONG));
      left = getRuntimeContext().getState(new ValueStateDescriptor<>("left", Types.INT));
      cancel = getRuntimeContext().getState(new ValueStateDescriptor<>("cancel", Types.LONG));
    }

    @Override
    public void processElement(Row row, Context context, Collector<String> out) throws Exception {
      switch (row.action) {
        case "set" -> context.timerService().registerEventTimeTimer(row.at);
        case "delete" -> context.timerService().deleteEventTimeTimer(row.at);
        case "repeat" -> {
          repeat.update(row.at);
          left.update(3);
          context.timerService().registerEventTimeTimer(context.timestamp() + row.at);
        }
        case "cancel" -> cancel.update(row.at);
        case "note" -> {}
        default -> throw new IllegalArgumentException(row.action);
      }
      report(row.k, row.action, context.timestamp(), context, out);
    }

    @Override
    public void onTimer(long time, OnTimerContext context, Collector<String> out) throws Exception {
      Integer more = left.value();
      if (more != null && more > 0) {
        left.update(more - 1);
        context.timerService().registerEventTimeTimer(time + repeat.value());
      }
      Long at = cancel.value();
      if (at != null) {
        context.timerService().deleteEventTimeTimer(at);
        cancel.clear();
      }
      report(context.getCurrentKey(), "timer", context.timestamp(), context, out);
    }

    void report(String k, String what, long time, Context context, Collector<String> out) throws Exception {
      long n = seen.value() == null ? 1 : seen.value() + 1;
      seen.update(n);
      out.collect(
          String.format(
              "{\"k\":\"%s\",\"what\":\"%s\",\"time\":%d,\"watermark\":%d,\"seen\":%d}",
              k, what, time, context.timerService().currentWatermark(), n));
    }
  }

  // --- two inputs ------------------------------------------------------------------------------

  static void patience(DataStream<Row> orders, DataStream<Row> payments) {
    sink(orders.connect(payments).keyBy(row -> row.k, row -> row.k).process(new Patience()), "out");
  }

  /** What the operator `patience` of tests/operators does. */
  static class Patience extends KeyedCoProcessFunction<String, Row, Row, String> {
    static final long PATIENCE_MS = 2000;
    transient ValueState<Long> ordered;
    transient ValueState<Double> paid;

    @Override
    public void open(OpenContext context) {
      ordered = getRuntimeContext().getState(new ValueStateDescriptor<>("ordered", Types.LONG));
      paid = getRuntimeContext().getState(new ValueStateDescriptor<>("paid", Types.DOUBLE));
    }

    @Override
    public void processElement1(Row row, Context context, Collector<String> out) throws Exception {
      ordered.update(row.t);
      if (paid.value() == null) context.timerService().registerEventTimeTimer(row.t + PATIENCE_MS);
      match(row.k, context, out);
    }

    @Override
    public void processElement2(Row row, Context context, Collector<String> out) throws Exception {
      paid.update(row.v);
      match(row.k, context, out);
    }

    void match(String k, Context context, Collector<String> out) throws Exception {
      if (ordered.value() == null || paid.value() == null) return;
      out.collect(String.format("{\"k\":\"%s\",\"what\":\"paid\",\"time\":%d,\"v\":%s}", k, ordered.value(), paid.value()));
      context.timerService().deleteEventTimeTimer(ordered.value() + PATIENCE_MS);
      ordered.clear();
      paid.clear();
    }

    @Override
    public void onTimer(long time, OnTimerContext context, Collector<String> out) throws Exception {
      out.collect(String.format("{\"k\":\"%s\",\"what\":\"unpaid\",\"time\":%d}", context.getCurrentKey(), time));
      ordered.clear();
    }
  }

  // --- joins -----------------------------------------------------------------------------------

  /** Rows of both sides; one may be missing. */
  public static class Pair {
    public String k;
    public Row left;
    public Row right;

    public Pair() {}

    static Pair of(Row left, Row right) {
      Pair pair = new Pair();
      pair.k = left == null ? right.k : left.k;
      pair.left = left;
      pair.right = right;
      return pair;
    }

    String json() {
      String text = "{\"k\":\"" + k + "\",\"n\":0";
      if (left != null) text += String.format(",\"lt\":%d,\"lv\":%s", left.t, left.v);
      if (right != null) text += String.format(",\"rt\":%d,\"rv\":%s", right.t, right.v);
      return text + "}";
    }
  }

  static SingleOutputStreamOperator<Pair> interval(
      DataStream<Row> left, DataStream<Row> right, long lower, long upper, boolean inclusive) {
    var join = left.keyBy(row -> row.k).intervalJoin(right.keyBy(row -> row.k))
        .between(Duration.ofMillis(lower), Duration.ofMillis(upper));
    return (inclusive ? join : join.lowerBoundExclusive().upperBoundExclusive()).process(new Pairs());
  }

  static class Pairs extends ProcessJoinFunction<Row, Row, Pair> {
    @Override
    public void processElement(Row left, Row right, Context context, Collector<Pair> out) {
      out.collect(Pair.of(left, right));
    }
  }

  static class Both implements JoinFunction<Row, Row, Pair> {
    @Override
    public Pair join(Row left, Row right) {
      return Pair.of(left, right);
    }
  }

  /** Also rows without a partner. */
  static class Full implements CoGroupFunction<Row, Row, Pair> {
    @Override
    public void coGroup(Iterable<Row> lefts, Iterable<Row> rights, Collector<Pair> out) {
      pairs(lefts, rights, out);
    }
  }

  static void pairs(Iterable<Row> lefts, Iterable<Row> rights, Collector<Pair> out) {
    for (Row left : lefts) for (Row right : rights) out.collect(Pair.of(left, right));
    if (!rights.iterator().hasNext()) for (Row left : lefts) out.collect(Pair.of(left, null));
    if (!lefts.iterator().hasNext()) for (Row right : rights) out.collect(Pair.of(null, right));
  }

  /** By the times of the pairs. */
  static void counts(SingleOutputStreamOperator<Pair> pairs, String name) {
    sink(
        pairs.keyBy(pair -> pair.k)
            .window(TumblingEventTimeWindows.of(Duration.ofMillis(700)))
            .process(
                new ProcessWindowFunction<Pair, String, String, TimeWindow>() {
                  @Override
                  public void process(String k, Context context, Iterable<Pair> all, Collector<String> out) {
                    long n = 0;
                    for (Pair pair : all) n++;
                    out.collect(String.format("{\"k\":\"%s\",\"start\":%d,\"n\":%d}", k, context.window().getStart(), n));
                  }
                }),
        name);
  }

  static final OutputTag<Row> LATE_LEFT = new OutputTag<>("late left", TypeInformation.of(Row.class));
  static final OutputTag<Row> LATE_RIGHT = new OutputTag<>("late right", TypeInformation.of(Row.class));

  static void lateInterval(DataStream<Row> steps, String name, long lower, long upper) {
    var serializer = TypeInformation.of(Row.class).createSerializer(steps.getExecutionConfig().getSerializerConfig());
    var none = steps.filter(row -> false).keyBy(row -> row.k);
    var pairs = steps.keyBy(row -> row.k).connect(none)
        .transform(name, TypeInformation.of(Pair.class), new OneByOne(lower, upper, serializer));
    sink(pairs.map(Pair::json), name);
    sink(pairs.getSideOutput(LATE_LEFT).map(Oracle::json), name + "-late-left");
    sink(pairs.getSideOutput(LATE_RIGHT).map(Oracle::json), name + "-late-right");
  }

  /** Rows of both sides and their watermarks come over one input, so that their order is the one of the file. */
  static class OneByOne extends IntervalJoinOperator<String, Row, Row, Pair> {
    OneByOne(long lower, long upper, TypeSerializer<Row> serializer) {
      super(lower, upper, true, true, LATE_LEFT, LATE_RIGHT, serializer, serializer, new Pairs());
    }

    @Override
    public void processElement1(StreamRecord<Row> row) throws Exception {
      if (row.getValue().side.equals("left")) super.processElement1(row);
      else super.processElement2(row);
    }

    @Override
    public void processWatermark1(org.apache.flink.streaming.api.watermark.Watermark mark) throws Exception {
      processWatermark(mark);
    }

    @Override
    public void processWatermark2(org.apache.flink.streaming.api.watermark.Watermark mark) {}
  }

  static void lateWindow(DataStream<Row> steps, String name, WindowAssigner<Object, TimeWindow> assigner) {
    var joined = steps.keyBy(row -> row.k).window(assigner).sideOutputLateData(LATE)
        .process(
            new ProcessWindowFunction<Row, Pair, String, TimeWindow>() {
              @Override
              public void process(String k, Context context, Iterable<Row> all, Collector<Pair> out) {
                List<Row> lefts = new ArrayList<>();
                List<Row> rights = new ArrayList<>();
                for (Row row : all) (row.side.equals("left") ? lefts : rights).add(row);
                pairs(lefts, rights, out);
              }
            });
    sink(joined.map(Pair::json), name);
    var late = joined.getSideOutput(LATE);
    sink(late.filter(row -> row.side.equals("left")).map(Oracle::json), name + "-late-left");
    sink(late.filter(row -> row.side.equals("right")).map(Oracle::json), name + "-late-right");
  }

  // --- results ---------------------------------------------------------------------------------

  static void sink(DataStream<String> rows, String name) {
    ROWS.put(name, new ArrayList<>());
    rows.process(new Keep(name)).sinkTo(new DiscardingSink<>());
  }

  /** Keeps the rows in this process, where the job runs. */
  static class Keep extends ProcessFunction<String, String> {
    final String name;

    Keep(String name) {
      this.name = name;
    }

    @Override
    public void processElement(String row, Context context, Collector<String> out) {
      ROWS.get(name).add(row);
    }
  }

  /** Sorted by the beginning of the row, which is its key: rows of a key stay in order. */
  static void write(Path dir) throws IOException {
    Files.createDirectories(dir);
    for (var sink : ROWS.entrySet()) {
      List<String> rows = new ArrayList<>(sink.getValue());
      rows.sort((a, b) -> key(a).compareTo(key(b)));
      String text = rows.isEmpty() ? "" : String.join("\n", rows) + "\n";
      Files.writeString(dir.resolve(sink.getKey() + ".ndjson"), text);
    }
    System.out.println(dir.getParent().getFileName());
  }

  static String key(String row) {
    return row.substring(0, row.indexOf(','));
  }
}
