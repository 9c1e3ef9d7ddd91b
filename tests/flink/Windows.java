import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.common.eventtime.WatermarkGenerator;
import org.apache.flink.api.common.eventtime.WatermarkOutput;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.SerializerConfigImpl;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.minicluster.MiniCluster;
import org.apache.flink.runtime.minicluster.MiniClusterConfiguration;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.datastream.WindowedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.ProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.functions.windowing.delta.DeltaFunction;
import org.apache.flink.streaming.api.windowing.assigners.DynamicEventTimeSessionWindows;
import org.apache.flink.streaming.api.windowing.assigners.EventTimeSessionWindows;
import org.apache.flink.streaming.api.windowing.assigners.GlobalWindows;
import org.apache.flink.streaming.api.windowing.assigners.SessionWindowTimeGapExtractor;
import org.apache.flink.streaming.api.windowing.assigners.SlidingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.WindowAssigner;
import org.apache.flink.streaming.api.windowing.triggers.ContinuousEventTimeTrigger;
import org.apache.flink.streaming.api.windowing.triggers.CountTrigger;
import org.apache.flink.streaming.api.windowing.triggers.DeltaTrigger;
import org.apache.flink.streaming.api.windowing.triggers.EventTimeTrigger;
import org.apache.flink.streaming.api.windowing.triggers.PurgingTrigger;
import org.apache.flink.streaming.api.windowing.triggers.Trigger;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.streaming.api.windowing.windows.Window;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

/**
 * The oracle of windows at random: each line of the input is a case as tests/differential/windows.rs describes it; after an
 * empty line all cases since the last one run in one job, and each gets a line with what Flink's windows give for it: results
 * and late rows, by key, in the order in which they came out.
 */
public class Windows {
  static final OutputTag<Row> LATE = new OutputTag<>("late", TypeInformation.of(Row.class));

  /** What came out, by case and by key. Filled by the job in this process. */
  static final List<Map<String, List<String>>> OUT = new ArrayList<>();

  /** A row of key `k`, or a watermark if there is no key. */
  public static class Row {
    public String k;
    public long t;
    public long v;

    public Row() {}
  }

  public static void main(String[] args) throws Exception {
    Configuration settings = new Configuration();
    settings.setString("rest.port", "0");
    settings.setString("rest.bind-port", "0");
    settings.setString("taskmanager.memory.managed.size", "64m");
    settings.setString("taskmanager.memory.network.min", "256m");
    settings.setString("taskmanager.memory.network.max", "256m");
    settings.setString("execution.checkpointing.storage", "jobmanager");
    MiniClusterConfiguration cluster =
        new MiniClusterConfiguration.Builder()
            .setConfiguration(settings)
            .setNumTaskManagers(1)
            .setNumSlotsPerTaskManager(1)
            .build();
    try (MiniCluster running = new MiniCluster(cluster)) {
      running.start();
      BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
      List<String> cases = new ArrayList<>();
      for (String line = in.readLine(); line != null; line = in.readLine()) {
        if (!line.isEmpty()) {
          cases.add(line);
          continue;
        }
        run(running, settings, cases);
        cases.clear();
      }
    }
    System.exit(0);
  }

  static void run(MiniCluster running, Configuration settings, List<String> cases) throws Exception {
    OUT.clear();
    StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment(settings);
    env.setParallelism(1);
    for (int number = 0; number < cases.size(); number++) {
      OUT.add(new TreeMap<>());
      String[] sides = cases.get(number).split("\\|", 2);
      pipeline(env, number, words(sides[0]), rows(sides[1].trim()));
    }
    running.executeJobBlocking(env.getStreamGraph().getJobGraph());
    for (Map<String, List<String>> out : OUT) {
      List<String> keys = new ArrayList<>();
      out.forEach((key, rows) -> keys.add(key + " " + String.join(" ", rows)));
      System.out.println(String.join("; ", keys));
    }
    System.out.flush();
  }

  static Map<String, String[]> words(String text) {
    Map<String, String[]> words = new HashMap<>();
    for (String word : text.trim().split("\\s+")) {
      String[] parts = word.split(":");
      words.put(parts[0], parts);
    }
    return words;
  }

  static long number(String[] word, int index) {
    return Long.parseLong(word[index]);
  }

  static Duration ms(String[] word, int index) {
    return Duration.ofMillis(number(word, index));
  }

  static List<Row> rows(String text) {
    List<Row> rows = new ArrayList<>();
    for (String word : text.split("\\s+")) {
      Row row = new Row();
      String[] parts = word.split("@");
      if (!parts[0].equals("w")) row.k = parts[0];
      String[] numbers = parts[1].split("=");
      row.t = Long.parseLong(numbers[0]);
      if (numbers.length > 1) row.v = Long.parseLong(numbers[1]);
      rows.add(row);
    }
    return rows;
  }

  @SuppressWarnings("unchecked")
  static void pipeline(StreamExecutionEnvironment env, int number, Map<String, String[]> words, List<Row> rows) {
    WatermarkStrategy<Row> strategy =
        WatermarkStrategy.<Row>forGenerator(context -> new AsSaid()).withTimestampAssigner((row, before) -> row.t);
    DataStream<Row> stream =
        env.fromData(rows, TypeInformation.of(Row.class))
            .assignTimestampsAndWatermarks(strategy)
            .filter(row -> row.k != null);
    var keyed = stream.keyBy(row -> row.k);
    WindowedStream<Row, String, ? extends Window> windowed =
        words.containsKey("global") ? keyed.window(GlobalWindows.createWithEndOfStreamTrigger()) : keyed.window(assigner(words));
    Trigger<Row, Window> trigger = trigger(words);
    WindowedStream<Row, String, Window> any = (WindowedStream<Row, String, Window>) windowed;
    if (trigger != null) any = any.trigger(trigger);
    if (words.containsKey("lateness")) any = any.allowedLateness(ms(words.get("lateness"), 1));
    SingleOutputStreamOperator<String> fired = any.sideOutputLateData(LATE).aggregate(new Sum(), new Show());
    sink(fired, number);
    sink(fired.getSideOutput(LATE).map(row -> row.k + "_late " + row.t + "=" + row.v), number);
  }

  static WindowAssigner<Object, TimeWindow> assigner(Map<String, String[]> words) {
    String[] word = words.get("tumbling");
    if (word != null) return TumblingEventTimeWindows.of(ms(word, 1), ms(word, 2));
    word = words.get("sliding");
    if (word != null) return SlidingEventTimeWindows.of(ms(word, 1), ms(word, 2), ms(word, 3));
    word = words.get("session");
    if (word != null) return EventTimeSessionWindows.withGap(ms(word, 1));
    return (WindowAssigner<Object, TimeWindow>) (WindowAssigner<?, TimeWindow>) DynamicEventTimeSessionWindows.withDynamicGap(new Gap());
  }

  /** The gap of a row is its value and one. */
  static class Gap implements SessionWindowTimeGapExtractor<Row> {
    @Override
    public long extract(Row row) {
      return row.v + 1;
    }
  }

  static class Difference implements DeltaFunction<Row> {
    @Override
    public double getDelta(Row before, Row now) {
      return Math.abs(now.v - before.v);
    }
  }

  @SuppressWarnings("unchecked")
  static Trigger<Row, Window> trigger(Map<String, String[]> words) {
    Trigger<?, ?> trigger = null;
    if (words.containsKey("end")) trigger = EventTimeTrigger.create();
    if (words.containsKey("count")) trigger = CountTrigger.of(number(words.get("count"), 1));
    if (words.containsKey("every")) trigger = ContinuousEventTimeTrigger.of(ms(words.get("every"), 1));
    if (words.containsKey("delta")) {
      var serializer = TypeInformation.of(Row.class).createSerializer(new SerializerConfigImpl());
      trigger = DeltaTrigger.of(number(words.get("delta"), 1), new Difference(), serializer);
    }
    Trigger<Row, Window> typed = (Trigger<Row, Window>) trigger;
    return typed != null && words.containsKey("purge") ? PurgingTrigger.of(typed) : typed;
  }

  /** Rows without a key are watermarks. */
  static class AsSaid implements WatermarkGenerator<Row> {
    @Override
    public void onEvent(Row row, long time, WatermarkOutput output) {
      if (row.k == null) output.emitWatermark(new Watermark(row.t));
    }

    @Override
    public void onPeriodicEmit(WatermarkOutput output) {}
  }

  /** Number, sum, smallest and largest of the values. */
  static class Sum implements AggregateFunction<Row, long[], long[]> {
    @Override
    public long[] createAccumulator() {
      return new long[] {0, 0, Long.MAX_VALUE, Long.MIN_VALUE};
    }

    @Override
    public long[] add(Row row, long[] sum) {
      return merge(sum, new long[] {1, row.v, row.v, row.v});
    }

    @Override
    public long[] getResult(long[] sum) {
      return sum;
    }

    @Override
    public long[] merge(long[] a, long[] b) {
      return new long[] {a[0] + b[0], a[1] + b[1], Math.min(a[2], b[2]), Math.max(a[3], b[3])};
    }
  }

  static class Show extends ProcessWindowFunction<long[], String, String, Window> {
    @Override
    public void process(String k, Context context, Iterable<long[]> all, Collector<String> out) {
      long[] s = all.iterator().next();
      String window = context.window() instanceof TimeWindow w ? "[" + w.getStart() + "," + w.getEnd() + ")" : "";
      out.collect(k + " " + window + s[0] + ":" + s[1] + ":" + s[2] + ":" + s[3]);
    }
  }

  static void sink(DataStream<String> rows, int number) {
    rows.process(new Keep(number)).sinkTo(new DiscardingSink<>());
  }

  static class Keep extends ProcessFunction<String, String> {
    final int number;

    Keep(int number) {
      this.number = number;
    }

    @Override
    public void processElement(String row, Context context, Collector<String> out) {
      int space = row.indexOf(' ');
      synchronized (OUT) {
        OUT.get(number).computeIfAbsent(row.substring(0, space), k -> new ArrayList<>()).add(row.substring(space + 1));
      }
    }
  }
}
