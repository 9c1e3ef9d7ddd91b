import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import org.apache.flink.api.common.JobExecutionResult;
import org.apache.flink.api.common.accumulators.LongCounter;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichFilterFunction;
import org.apache.flink.api.common.functions.RichMapFunction;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.datagen.source.DataGeneratorSource;
import org.apache.flink.connector.file.src.FileSource;
import org.apache.flink.connector.file.src.reader.TextLineInputFormat;
import org.apache.flink.runtime.minicluster.MiniCluster;
import org.apache.flink.runtime.minicluster.MiniClusterConfiguration;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.co.ProcessJoinFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.EventTimeSessionWindows;
import org.apache.flink.streaming.api.windowing.assigners.SlidingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;

/**
 * Flink's side of `./dev bench peers` and `windows`: the DataStream API on the heap backend, parallelism 2, object
 * reuse, no checkpoints, generator in process, discarding sink.
 *
 * <p>`-Dbackend=rocksdb`, `-Dmanaged=256m`, `-Dkeys=N`, `-Dcheckpoints=URI` and `-Dinterval=1s` are for `./dev bench
 * durable`.
 *
 * <p>Usage: Bench WORK ROWS WARMUP_ROWS count|discard [FILES]. Prints one JSON line. A warm-up job runs
 * first in the same JVM and cluster, so that the measured job finds compiled code and a started cluster.
 * With `count` the rows that reach the sink are counted, for comparing results; not for timing.
 */
public class Bench {
  static final int PARALLELISM = 2;
  static final long KEYS = Long.getLong("keys", 100_000);
  static final String[] CHANNELS = new String[10];
  /** Of event time; all tasks are in this JVM. */
  static long bidsPerMs = 10;

  static {
    for (int i = 0; i < CHANNELS.length; i++) CHANNELS[i] = "channel-" + i;
  }

  /** A bid. */
  public static class Bid {
    public long auction;
    public long bidder;
    public long price;
    public long ts;
    public String channel;

    public Bid() {}
  }

  /** What the map makes of a bid: it fills `euros` and `bucket` in place, object reuse at its best. */
  public static class PricedBid extends Bid {
    public double euros;
    public long bucket;

    public PricedBid() {}
  }

  public static void main(String[] args) throws Exception {
    String work = args[0];
    long rows = Long.parseLong(args[1]);
    long warmup = Long.parseLong(args[2]);
    boolean count = args[3].equals("count");
    String files = args.length > 4 ? args[4] : null;
    Configuration settings = settings();
    MiniClusterConfiguration cluster =
        new MiniClusterConfiguration.Builder()
            .setConfiguration(settings)
            .setNumTaskManagers(1)
            .setNumSlotsPerTaskManager(PARALLELISM)
            .build();
    try (MiniCluster running = new MiniCluster(cluster)) {
      running.start();
      if (warmup > 0) run(running, settings, work, warmup, files, false);
      double cpu = cpuSeconds();
      long start = System.nanoTime();
      JobExecutionResult result = run(running, settings, work, rows, files, count);
      double wall = (System.nanoTime() - start) / 1e9;
      print(work, rows, wall, cpuSeconds() - cpu, count ? result.getAccumulatorResult("rows_out") : null);
    }
    System.exit(0);
  }

  static Configuration settings() {
    Configuration settings = new Configuration();
    settings.setString("state.backend.type", System.getProperty("backend", "hashmap"));
    settings.setString("pipeline.object-reuse", "true");
    settings.setString("rest.port", "0");
    settings.setString("rest.bind-port", "0");
    settings.setString("taskmanager.memory.managed.size", System.getProperty("managed", "64m"));
    String checkpoints = System.getProperty("checkpoints");
    if (checkpoints != null) {
      settings.setString("execution.checkpointing.interval", System.getProperty("interval", "1s"));
      settings.setString("execution.checkpointing.incremental", "true");
      settings.setString("execution.checkpointing.dir", checkpoints);
    }
    settings.setString("taskmanager.memory.network.max", "256m");
    return settings;
  }

  static JobExecutionResult run(
      MiniCluster cluster, Configuration settings, String work, long rows, String files, boolean count)
      throws Exception {
    StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment(settings);
    env.setParallelism(PARALLELISM);
    finish(pipeline(env, work, rows, files), count);
    return cluster.executeJobBlocking(env.getStreamGraph().getJobGraph());
  }

  static DataStream<?> pipeline(StreamExecutionEnvironment env, String work, long rows, String files) {
    switch (work) {
      case "filter":
        return bids(env, rows, false).filter(bid -> bid.auction % 123 == 0);
      case "map":
        return pricedBids(env, rows)
            .map(
                bid -> {
                  bid.euros = bid.price * 0.908;
                  bid.bucket = bid.auction % 1000;
                  return bid;
                })
            .returns(PricedBid.class);
      case "count":
        return bids(env, rows, false).keyBy(bid -> bid.auction).process(new Count());
      case "window":
        return bids(env, rows, true)
            .keyBy(bid -> bid.auction)
            .window(TumblingEventTimeWindows.of(Duration.ofSeconds(10)))
            .aggregate(new CountRows(), new AddWindow());
      case "sliding10":
        return sliding(env, rows, 10);
      case "sliding60":
        return sliding(env, rows, 60);
      case "session":
        return bids(env, rows, true)
            .keyBy(bid -> bid.auction)
            .window(EventTimeSessionWindows.withGap(Duration.ofSeconds(10)))
            .aggregate(new CountRows(), new AddWindow());
      case "join":
        return join(env, rows);
      case "ndjson":
        return lines(env, files).map(new Parse()).returns(Bid.class).keyBy(bid -> bid.auction).process(new Count());
      default:
        throw new IllegalArgumentException("no work named " + work);
    }
  }

  /** Two bids per ms and side; each meets its twin of the other side, and what else is near. */
  static DataStream<Tuple3<Long, Long, Long>> join(StreamExecutionEnvironment env, long rows) {
    bidsPerMs = 2;
    var right = bids(env, rows, true).keyBy(bid -> bid.auction);
    return bids(env, rows, true)
        .keyBy(bid -> bid.auction)
        .intervalJoin(right)
        .between(Duration.ofSeconds(-30), Duration.ofSeconds(30))
        .process(new Pair());
  }

  static class Pair extends ProcessJoinFunction<Bid, Bid, Tuple3<Long, Long, Long>> {
    @Override
    public void processElement(Bid left, Bid right, Context context, Collector<Tuple3<Long, Long, Long>> out) {
      out.collect(Tuple3.of(left.auction, left.price, right.price));
    }
  }

  /** A hundred bids per ms instead of ten: each window of 10 s has a million. */
  static DataStream<Tuple3<Long, Long, Double>> sliding(StreamExecutionEnvironment env, long rows, long seconds) {
    bidsPerMs = 100;
    return bids(env, rows, true)
        .keyBy(bid -> bid.auction)
        .window(SlidingEventTimeWindows.of(Duration.ofSeconds(seconds), Duration.ofSeconds(1)))
        .aggregate(new MeanPrice(), new AddMeanWindow());
  }

  static DataStream<Bid> bids(StreamExecutionEnvironment env, long rows, boolean timed) {
    DataGeneratorSource<Bid> source =
        new DataGeneratorSource<>(i -> fill(new Bid(), index(i, rows)), rows, TypeInformation.of(Bid.class));
    WatermarkStrategy<Bid> strategy =
        timed
            ? WatermarkStrategy.<Bid>forBoundedOutOfOrderness(Duration.ofSeconds(1))
                .withTimestampAssigner((bid, previous) -> bid.ts)
            : WatermarkStrategy.noWatermarks();
    return env.fromSource(source, strategy, "bids");
  }

  static DataStream<PricedBid> pricedBids(StreamExecutionEnvironment env, long rows) {
    DataGeneratorSource<PricedBid> source =
        new DataGeneratorSource<>(
            i -> fill(new PricedBid(), index(i, rows)), rows, TypeInformation.of(PricedBid.class));
    return env.fromSource(source, WatermarkStrategy.noWatermarks(), "bids");
  }

  /**
   * The source cuts 0..rows into one range per subtask. Dealing the indices out in turn instead lets event
   * time advance alike in both: otherwise the window job would hold half of all rows in state.
   */
  static long index(long i, long rows) {
    long part = rows / PARALLELISM;
    return i >= part * PARALLELISM ? i : i % part * PARALLELISM + i / part;
  }

  static <B extends Bid> B fill(B bid, long i) {
    bid.auction = ((i * 2654435761L) >>> 8) % KEYS;
    bid.bidder = i % 50_000;
    bid.price = (i * 40_503L) % 10_000;
    bid.ts = i / bidsPerMs;
    bid.channel = CHANNELS[(int) (i % 10)];
    return bid;
  }

  static DataStream<String> lines(StreamExecutionEnvironment env, String files) {
    FileSource<String> source =
        FileSource.forRecordStreamFormat(
                new TextLineInputFormat(), new org.apache.flink.core.fs.Path(files))
            .build();
    return env.fromSource(source, WatermarkStrategy.noWatermarks(), "lines");
  }

  /** Jackson's streaming parser into a reused object: the fastest that a user would write. */
  static class Parse extends RichMapFunction<String, Bid> {
    transient JsonFactory json;
    transient Bid bid;

    @Override
    public void open(OpenContext context) {
      json = new JsonFactory();
      bid = new Bid();
    }

    @Override
    public Bid map(String line) throws IOException {
      try (JsonParser parser = json.createParser(line)) {
        parser.nextToken();
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
          String name = parser.currentName();
          parser.nextToken();
          switch (name) {
            case "auction" -> bid.auction = parser.getLongValue();
            case "bidder" -> bid.bidder = parser.getLongValue();
            case "price" -> bid.price = parser.getLongValue();
            case "ts" -> bid.ts = parser.getLongValue();
            case "channel" -> bid.channel = parser.getText();
            default -> parser.skipChildren();
          }
        }
      }
      return bid;
    }
  }

  /** One count per auction in keyed state; each bid puts out its auction's count. */
  static class Count extends KeyedProcessFunction<Long, Bid, Tuple2<Long, Long>> {
    transient ValueState<Long> state;
    transient Tuple2<Long, Long> out;

    @Override
    public void open(OpenContext context) {
      state = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Types.LONG));
      out = new Tuple2<>();
    }

    @Override
    public void processElement(Bid bid, Context context, Collector<Tuple2<Long, Long>> collector)
        throws Exception {
      Long before = state.value();
      long count = before == null ? 1 : before + 1;
      state.update(count);
      out.f0 = bid.auction;
      out.f1 = count;
      collector.collect(out);
    }
  }

  static class CountRows implements AggregateFunction<Bid, Long, Long> {
    @Override
    public Long createAccumulator() {
      return 0L;
    }

    @Override
    public Long add(Bid bid, Long count) {
      return count + 1;
    }

    @Override
    public Long getResult(Long count) {
      return count;
    }

    @Override
    public Long merge(Long left, Long right) {
      return left + right;
    }
  }

  /** Sum and number of the prices. */
  static class MeanPrice implements AggregateFunction<Bid, Tuple2<Long, Long>, Double> {
    @Override
    public Tuple2<Long, Long> createAccumulator() {
      return Tuple2.of(0L, 0L);
    }

    @Override
    public Tuple2<Long, Long> add(Bid bid, Tuple2<Long, Long> sum) {
      sum.f0 += bid.price;
      sum.f1++;
      return sum;
    }

    @Override
    public Double getResult(Tuple2<Long, Long> sum) {
      return (double) sum.f0 / sum.f1;
    }

    @Override
    public Tuple2<Long, Long> merge(Tuple2<Long, Long> left, Tuple2<Long, Long> right) {
      left.f0 += right.f0;
      left.f1 += right.f1;
      return left;
    }
  }

  static class AddMeanWindow extends ProcessWindowFunction<Double, Tuple3<Long, Long, Double>, Long, TimeWindow> {
    @Override
    public void process(
        Long auction, Context context, Iterable<Double> means, Collector<Tuple3<Long, Long, Double>> out) {
      out.collect(Tuple3.of(auction, context.window().getStart(), means.iterator().next()));
    }
  }

  static class AddWindow extends ProcessWindowFunction<Long, Tuple3<Long, Long, Long>, Long, TimeWindow> {
    @Override
    public void process(
        Long auction, Context context, Iterable<Long> counts, Collector<Tuple3<Long, Long, Long>> out) {
      out.collect(Tuple3.of(auction, context.window().getStart(), counts.iterator().next()));
    }
  }

  /** Counts the rows that reach the sink. */
  static class Counted<T> extends RichFilterFunction<T> {
    transient LongCounter rows;

    @Override
    public void open(OpenContext context) {
      rows = getRuntimeContext().getLongCounter("rows_out");
    }

    @Override
    public boolean filter(T row) {
      rows.add(1);
      return true;
    }
  }

  static <T> void finish(DataStream<T> rows, boolean count) {
    (count ? rows.filter(new Counted<T>()) : rows).sinkTo(new DiscardingSink<>());
  }

  static double cpuSeconds() {
    return ManagementFactory.getPlatformMXBean(OperatingSystemMXBean.class).getProcessCpuTime() / 1e9;
  }

  static void print(String work, long rows, double wall, double cpu, Object rowsOut) {
    double process = (System.currentTimeMillis() - ManagementFactory.getRuntimeMXBean().getStartTime()) / 1e3;
    System.out.printf(
        "{\"work\":\"%s\",\"rows\":%d,\"rows_out\":%s,\"wall_s\":%.3f,\"cpu_s\":%.3f,\"peak_rss_bytes\":%d,"
            + "\"rows_per_s\":%.0f,\"process_wall_s\":%.3f,\"process_cpu_s\":%.3f}%n",
        work, rows, rowsOut, wall, cpu, peakRssBytes(), rows / wall, process, cpuSeconds());
  }

  static long peakRssBytes() {
    try (var lines = Files.lines(Path.of("/proc/self/status"))) {
      String line = lines.filter(l -> l.startsWith("VmHWM:")).findFirst().orElse("VmHWM: 0 kB");
      return Long.parseLong(line.replaceAll("[^0-9]", "")) * 1024;
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }
}
