import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.api.common.functions.RuntimeContext;
import org.apache.flink.api.common.state.KeyedStateStore;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.cep.configuration.SharedBufferCacheConfig;
import org.apache.flink.cep.nfa.NFA;
import org.apache.flink.cep.nfa.NFAState;
import org.apache.flink.cep.nfa.aftermatch.AfterMatchSkipStrategy;
import org.apache.flink.cep.nfa.compiler.NFACompiler;
import org.apache.flink.cep.nfa.sharedbuffer.SharedBuffer;
import org.apache.flink.cep.pattern.MalformedPatternException;
import org.apache.flink.cep.pattern.Pattern;
import org.apache.flink.cep.pattern.WithinType;
import org.apache.flink.cep.pattern.conditions.IterativeCondition;
import org.apache.flink.configuration.Configuration;

/**
 * The oracle of the CEP cases: each line of the input is a case as host/cep/tests/common/mod.rs describes it, each line of
 * the output is what Flink's automaton gives for it. Events are strings `INDEX:LETTERVALUE`.
 */
public class Cep {
  public static void main(String[] args) {
    // Shared buffers leave timers behind that would keep the process alive.
    int code = 0;
    try {
      BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
      for (String line = in.readLine(); line != null; line = in.readLine()) {
        System.out.println(result(line));
        System.out.flush();
      }
    } catch (Throwable e) {
      e.printStackTrace();
      code = 1;
    }
    System.exit(code);
  }

  static String result(String line) {
    String[] sides = line.split("\\|", 2);
    Pattern<String, ?> pattern;
    NFACompiler.NFAFactory<String> factory;
    try {
      pattern = new Parser(sides[0].trim().split("\\s+")).pattern();
      factory = NFACompiler.compileFactory(pattern, true);
    } catch (MalformedPatternException | IllegalArgumentException | UnsupportedOperationException | StackOverflowError e) {
      return "refused";
    } catch (NullPointerException e) {
      return "failed " + e;
    }
    try {
      return run(pattern, factory.createNFA(), sides[1].trim());
    } catch (Throwable e) {
      return "failed " + e.getClass().getSimpleName() + " " + e.getMessage();
    }
  }

  static String run(Pattern<String, ?> pattern, NFA<String> nfa, String steps) throws Exception {
    nfa.open(proxy(RuntimeContext.class, (self, method, words) -> null), new Configuration());
    SharedBuffer<String> buffer = new SharedBuffer<>(store(), StringSerializer.INSTANCE, new SharedBufferCacheConfig());
    NFAState state = nfa.createInitialNFAState();
    AfterMatchSkipStrategy skip = pattern.getAfterMatchSkipStrategy();
    List<String> out = new ArrayList<>();
    int at = 0;
    for (String step : steps.isEmpty() ? new String[0] : steps.split("\\s+")) {
      int sign = step.indexOf('@');
      long time = Long.parseLong(step.substring(sign + 1));
      List<String> lines = new ArrayList<>();
      try (var accessor = buffer.getAccessor()) {
        var advanced = nfa.advanceTime(accessor, state, time, skip);
        for (var match : advanced.f0) lines.add(at + ":p" + shown(match));
        for (var over : advanced.f1) lines.add(at + ":t@" + over.f1 + shown(over.f0));
        if (sign > 0) {
          String event = at + ":" + step.substring(0, sign);
          for (var match : nfa.process(accessor, state, event, time, skip, () -> 0L)) lines.add(at + ":m" + shown(match));
        }
      } catch (Exception e) {
        if (String.valueOf(e.getMessage()).startsWith("Could not skip to")) {
          out.add(at + ":miss");
          break;
        }
        throw e;
      }
      Collections.sort(lines);
      out.addAll(lines);
      at++;
    }
    return String.join(" ", out);
  }

  static String shown(Map<String, List<String>> match) {
    List<String> stages = new ArrayList<>();
    for (var stage : new TreeMap<>(match).entrySet()) {
      List<String> events = new ArrayList<>();
      for (String event : stage.getValue()) events.add(event.substring(0, event.indexOf(':')));
      stages.add(stage.getKey() + "=" + String.join(",", events));
    }
    return "{" + String.join(";", stages) + "}";
  }

  // --- patterns --------------------------------------------------------------------------------

  static class Parser {
    final String[] words;
    int at = 0;

    Parser(String[] words) {
      this.words = words;
    }

    Pattern<String, String> pattern() {
      return sequence(skip(words[at++]));
    }

    static AfterMatchSkipStrategy skip(String word) {
      int colon = word.indexOf(':');
      String stage = word.substring(colon + 1);
      switch (colon < 0 ? word : word.substring(0, colon)) {
        case "no":
          return AfterMatchSkipStrategy.noSkip();
        case "next":
          return AfterMatchSkipStrategy.skipToNext();
        case "past":
          return AfterMatchSkipStrategy.skipPastLastEvent();
        case "first":
          return AfterMatchSkipStrategy.skipToFirst(stage);
        case "last":
          return AfterMatchSkipStrategy.skipToLast(stage);
        case "first!":
          return AfterMatchSkipStrategy.skipToFirst(stage).throwExceptionOnMiss();
        case "last!":
          return AfterMatchSkipStrategy.skipToLast(stage).throwExceptionOnMiss();
        default:
          throw new IllegalStateException(word);
      }
    }

    Pattern<String, String> sequence(AfterMatchSkipStrategy skip) {
      Pattern<String, String> pattern = null;
      while (at < words.length && !words[at].equals(")")) {
        String how = words[at++];
        if (words[at].equals("(")) {
          at++;
          Pattern<String, String> group = sequence(AfterMatchSkipStrategy.noSkip());
          at++;
          pattern = settings(joined(how, pattern, group, skip));
        } else {
          pattern = settings(joined(how, pattern, words[at++], skip));
        }
      }
      return pattern;
    }

    static Pattern<String, String> joined(
        String how, Pattern<String, String> before, Pattern<String, String> group, AfterMatchSkipStrategy skip) {
      switch (how) {
        case "begin":
          return Pattern.begin(group, skip);
        case "next":
          return before.next(group);
        case "followedBy":
          return before.followedBy(group);
        case "followedByAny":
          return before.followedByAny(group);
        default:
          throw new UnsupportedOperationException(how + " with a group");
      }
    }

    static Pattern<String, String> joined(
        String how, Pattern<String, String> before, String name, AfterMatchSkipStrategy skip) {
      switch (how) {
        case "begin":
          return Pattern.begin(name, skip);
        case "next":
          return before.next(name);
        case "followedBy":
          return before.followedBy(name);
        case "followedByAny":
          return before.followedByAny(name);
        case "notNext":
          return before.notNext(name);
        case "notFollowedBy":
          return before.notFollowedBy(name);
        default:
          throw new IllegalStateException(how);
      }
    }

    Pattern<String, String> settings(Pattern<String, String> pattern) {
      for (; at < words.length && !isElement(words[at]); at++) pattern = setting(pattern, words[at].split(":"));
      return pattern;
    }

    static boolean isElement(String word) {
      return word.equals(")") || List.of("begin", "next", "followedBy", "followedByAny", "notNext", "notFollowedBy").contains(word);
    }

    static Pattern<String, String> setting(Pattern<String, String> pattern, String[] words) {
      switch (words[0]) {
        case "where":
          return pattern.where(new Asked(words[1]));
        case "or":
          return pattern.or(new Asked(words[1]));
        case "until":
          return pattern.until(new Asked(words[1]));
        case "oneOrMore":
          return words.length > 1 ? pattern.oneOrMore(millis(words[1])) : pattern.oneOrMore();
        case "timesOrMore":
          int least = Integer.parseInt(words[1]);
          return words.length > 2 ? pattern.timesOrMore(least, millis(words[2])) : pattern.timesOrMore(least);
        case "times":
          Duration time = words.length > 2 ? millis(words[2]) : null;
          int dash = words[1].indexOf('-');
          if (dash < 0) return pattern.times(Integer.parseInt(words[1]), time);
          int from = Integer.parseInt(words[1].substring(0, dash));
          return pattern.times(from, Integer.parseInt(words[1].substring(dash + 1)), time);
        case "consecutive":
          return pattern.consecutive();
        case "combinations":
          return pattern.allowCombinations();
        case "greedy":
          return pattern.greedy();
        case "optional":
          return pattern.optional();
        case "within":
          return pattern.within(millis(words[1]));
        case "gap":
          return pattern.within(millis(words[1]), WithinType.PREVIOUS_AND_CURRENT);
        default:
          throw new IllegalStateException(words[0]);
      }
    }

    static Duration millis(String text) {
      return Duration.ofMillis(Long.parseLong(text));
    }
  }

  /** A condition. */
  static class Asked extends IterativeCondition<String> {
    final char kind;
    final String text;

    Asked(String text) {
      this.kind = text.charAt(0);
      this.text = text;
    }

    @Override
    public boolean filter(String event, Context<String> context) throws Exception {
      if (Character.isLetter(kind)) return text.indexOf(event.charAt(event.indexOf(':') + 1)) >= 0;
      int less = text.indexOf('<');
      String stage = text.substring(1, less < 0 ? text.length() : less);
      long limit = less < 0 ? 0 : Long.parseLong(text.substring(less + 1));
      Long first = null, last = null;
      long count = 0, sum = 0;
      for (String before : context.getEventsForPattern(stage)) {
        last = value(before);
        if (first == null) first = last;
        count++;
        sum += last;
      }
      switch (kind) {
        case '#':
          return count < limit;
        case '>':
          return last == null || value(event) > last;
        case '^':
          return first == null || value(event) == first;
        case '+':
          return sum + value(event) < limit;
        default:
          throw new IllegalStateException(text);
      }
    }

    static long value(String event) {
      return Long.parseLong(event.substring(event.indexOf(':') + 2));
    }
  }

  // --- state in memory -------------------------------------------------------------------------

  static <T> T proxy(Class<T> type, InvocationHandler handler) {
    return type.cast(Proxy.newProxyInstance(Cep.class.getClassLoader(), new Class<?>[] {type}, handler));
  }

  static KeyedStateStore store() {
    return proxy(
        KeyedStateStore.class,
        (self, method, words) ->
            switch (method.getName()) {
              case "getState" -> value();
              case "getMapState" -> map();
              default -> throw new IllegalStateException(method.getName());
            });
  }

  static ValueState<?> value() {
    Object[] held = {null};
    return proxy(
        ValueState.class,
        (self, method, words) -> {
          switch (method.getName()) {
            case "value":
              return held[0];
            case "update":
              held[0] = words[0];
              return null;
            case "clear":
              held[0] = null;
              return null;
            default:
              throw new IllegalStateException(method.getName());
          }
        });
  }

  @SuppressWarnings("unchecked")
  static MapState<?, ?> map() {
    Map<Object, Object> held = new HashMap<>();
    return proxy(
        MapState.class,
        (self, method, words) -> {
          switch (method.getName()) {
            case "get":
              return held.get(words[0]);
            case "put":
              held.put(words[0], words[1]);
              return null;
            case "putAll":
              held.putAll((Map<Object, Object>) words[0]);
              return null;
            case "remove":
              held.remove(words[0]);
              return null;
            case "contains":
              return held.containsKey(words[0]);
            case "entries":
              return held.entrySet();
            case "keys":
              return held.keySet();
            case "values":
              return held.values();
            case "iterator":
              return held.entrySet().iterator();
            case "isEmpty":
              return held.isEmpty();
            case "clear":
              held.clear();
              return null;
            default:
              throw new IllegalStateException(method.getName());
          }
        });
  }
}
