//! Cases at random, and smaller cases of a case.

/// A generator of pseudo-random numbers (SplitMix64): the same seed, the same cases.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
    /// True in so many of a hundred cases.
    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A case. Most of them are patterns that are not refused.
pub fn case(chance: &mut Chance) -> String {
    let mut made = Made { chance, names: 0, words: Vec::new() };
    let skip = match made.chance.below(10) {
        0..4 => "no".to_owned(),
        4 => "next".to_owned(),
        5 | 6 => "past".to_owned(),
        kind => {
            let bang = if made.chance.percent(20) { "!" } else { "" };
            format!("{}{bang}:s{}", if kind == 7 { "first" } else { "last" }, made.chance.below(3))
        }
    };
    made.words.push(skip);
    let length = 1 + made.chance.below(4);
    let timed = made.chance.percent(60);
    made.sequence(length, 0, timed);
    if timed {
        let ms = 1 + made.chance.below(12);
        made.words.push(format!("within:{ms}"));
    }
    made.words.push("|".to_owned());
    made.steps();
    made.words.join(" ")
}

struct Made<'a> {
    chance: &'a mut Chance,
    names: u64,
    words: Vec<String>,
}

impl Made<'_> {
    fn say(&mut self, word: impl Into<String>) {
        self.words.push(word.into());
    }

    fn sequence(&mut self, length: u64, depth: u32, timed: bool) {
        let (mut optional, mut greedy) = (false, false);
        for at in 0..length {
            let last = at + 1 == length;
            let not = at > 0 && (!optional && (timed || !last) || self.chance.percent(3)) && self.chance.percent(18);
            let group = !not && depth < 2 && self.chance.percent(if depth == 0 { 15 } else { 8 });
            let how = match (at, not) {
                (0, _) => "begin",
                (_, true) => self.chance.one(&["notNext", "notFollowedBy", "notFollowedBy"]),
                (_, false) => self.chance.one(&["next", "followedBy", "followedBy", "followedByAny"]),
            };
            self.say(how);
            if group {
                self.say("(");
                let length = 1 + self.chance.below(3);
                self.sequence(length, depth + 1, timed);
                self.say(")");
            } else {
                let name = self.names;
                self.names += 1;
                self.say(format!("s{name}"));
                self.conditions(name);
            }
            (optional, greedy) = if not { (false, false) } else { self.quantifier(group, greedy) };
            if self.chance.percent(6) {
                let ms = 1 + self.chance.below(10);
                let word = if self.chance.percent(50) { "gap" } else { "within" };
                self.say(format!("{word}:{ms}"));
            }
        }
    }

    fn conditions(&mut self, stage: u64) {
        if self.chance.percent(93) {
            let letters = self.chance.one(&["a", "b", "c", "a", "b", "c", "ab", "bc", "abc"]);
            self.say(format!("where:{letters}"));
        }
        if self.chance.percent(12) {
            let iterative = self.iterative(stage);
            let word = self.chance.one(&["where", "where", "or"]);
            self.say(format!("{word}:{iterative}"));
        }
        if self.chance.percent(5) {
            self.say("or:c");
        }
    }

    fn iterative(&mut self, stage: u64) -> String {
        let stage = self.chance.below(stage + 1);
        match self.chance.below(4) {
            0 => format!("#s{stage}<{}", 1 + self.chance.below(3)),
            1 => format!(">s{stage}"),
            2 => format!("^s{stage}"),
            _ => format!("+s{stage}<{}", self.chance.below(12)),
        }
    }

    /// Says how often. Answers whether that is optional and greedy.
    fn quantifier(&mut self, group: bool, after_greedy: bool) -> (bool, bool) {
        let repeated = self.chance.percent(50);
        let (mut optional, mut greedy, mut looping) = (false, false, false);
        if repeated {
            let (from, more) = (1 + self.chance.below(3), self.chance.below(3));
            let ms = if self.chance.percent(8) { format!(":{}", 1 + self.chance.below(8)) } else { String::new() };
            let word = match self.chance.below(6) {
                0 | 1 => "oneOrMore".to_owned(),
                2 => format!("timesOrMore:{from}"),
                3 => format!("times:{from}"),
                4 => format!("times:{from}-{}", from + more),
                _ => {
                    optional = true;
                    format!("times:0-{}", 1 + more)
                }
            };
            looping = word.contains("Or");
            self.say(word + &ms);
            let inner = self.chance.one(&["", "", "consecutive", "combinations"]);
            if !inner.is_empty() {
                self.say(inner);
            }
            if self.chance.percent(30) && (inner != "combinations" && !group || self.chance.percent(3)) {
                greedy = true;
                self.say("greedy");
            }
        }
        if !optional && self.chance.percent(22) && (!after_greedy || self.chance.percent(5)) {
            optional = true;
            self.say("optional");
        }
        if self.chance.percent(15) && (looping || self.chance.percent(3)) {
            let until = self.chance.one(&["c", "d", "bc", "+s0<9", "#s0<2"]);
            self.say(format!("until:{until}"));
        }
        (optional, greedy)
    }

    fn steps(&mut self) {
        let (mut time, events) = (self.chance.below(3) as i64, 1 + self.chance.below(11));
        let letters = self.chance.one(&["abcd", "abc", "ab", "aabbcd"]).as_bytes();
        for _ in 0..events {
            let letter = letters[self.chance.below(letters.len() as u64) as usize] as char;
            let value = self.chance.below(5);
            self.say(format!("{letter}{value}@{time}"));
            time += self.chance.one(&["0", "1", "1", "1", "2", "3", "7"]).parse::<i64>().unwrap_or(1);
            if self.chance.percent(5) {
                self.say(format!("@{time}"));
            }
        }
        if self.chance.percent(70) {
            self.say(format!("@{}", time + 20));
        }
    }
}

/// The smallest case that can be had by leaving words out and still `differs`.
pub fn shrunk(case: &str, mut differs: impl FnMut(&str) -> bool) -> String {
    let mut words: Vec<String> = case.split_whitespace().map(str::to_owned).collect();
    let mut changed = true;
    while changed {
        changed = false;
        for length in [6, 4, 3, 2, 1] {
            let mut at = 1;
            while at + length <= words.len() {
                let mut fewer = words.clone();
                fewer.drain(at..at + length);
                let text = fewer.join(" ");
                if is_case(&fewer) && differs(&text) {
                    words = fewer;
                    changed = true;
                } else {
                    at += 1;
                }
            }
        }
    }
    words.join(" ")
}

/// Whether words can be read as a case.
fn is_case(words: &[String]) -> bool {
    let Some(bar) = words.iter().position(|word| word == "|") else { return false };
    let is_how =
        |word: &str| ["begin", "next", "followedBy", "followedByAny", "notNext", "notFollowedBy"].contains(&word);
    let is_name = |word: &str| word.starts_with('s') && word[1..].parse::<u32>().is_ok();
    let (mut depth, mut fresh, mut at, mut last) = (0, true, 1, "");
    while at < bar {
        let word = words[at].as_str();
        if is_how(word) {
            if fresh != (word == "begin") {
                return false;
            }
            match words.get(at + 1).map(String::as_str) {
                Some("(") => (depth, fresh) = (depth + 1, true),
                Some(name) if is_name(name) => fresh = false,
                _ => return false,
            }
            at += 1;
        } else if word == ")" {
            if depth == 0 || fresh {
                return false;
            }
            depth -= 1;
        } else if fresh || is_name(word) || word == "(" || !follows(last, word) {
            return false;
        }
        last = word;
        at += 1;
    }
    depth == 0 && !fresh && words[bar + 1..].iter().all(|word| word.contains('@'))
}

/// Whether a setting may stand behind another word: in the order in which cases are made, on which Flink's builder
/// depends, and once, except for conditions, which a group does not have.
fn follows(last: &str, setting: &str) -> bool {
    let place = |word: &str| match word.split(':').next().unwrap_or_default() {
        "where" | "or" => 1,
        "oneOrMore" | "timesOrMore" | "times" => 2,
        "consecutive" | "combinations" => 3,
        "greedy" => 4,
        "optional" => 5,
        "until" => 6,
        "gap" => 7,
        "within" => 8,
        _ => 0,
    };
    let condition = place(setting) == 1 && place(last) <= 1 && last != ")";
    condition || place(setting) > 1 && place(last) < place(setting)
}
