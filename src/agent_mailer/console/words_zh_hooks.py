"""The Chinese texts of the pages about hooks."""

from __future__ import annotations

HOOKS: dict[str, str] = {
    "Hooks": "钩子",
    "The secret of {name}": "{name} 的密钥",
    "It is shown this once. Who calls signs with it:": "只显示这一次。调用方用它签名：",
    "Called at": "调用地址",
    "Kind": "种类",
    "Writes to": "写给",
    "New secret…": "新密钥…",
    "The secret of before counts no more, at once.": "原来的密钥立即失效。",
    "Make a new secret": "生成新密钥",
    "Nothing comes by “{name}” any more. What came stays.": "不再有内容经“{name}”进来。已经来的保留。",
    "Delete the hook": "删除钩子",
    "No hooks yet": "还没有钩子",
    "By a hook a program of elsewhere writes to an agent: GitHub, or any that signs what it sends.": (
        "别处的程序通过钩子写信给智能体：GitHub，或任何会签名的程序。"
    ),
    "New hook": "新建钩子",
    "all of team {name}": "团队 {name} 的所有成员",
    "Only these events, with commas between": "只接受这些事件，以逗号分隔",
    "Make the hook": "创建钩子",
    "Hook {name}": "钩子 {name}",
    "writes as": "发件地址",
    "Only these events:": "只接受这些事件：",
    "Times": "次数",
    "First": "首次",
    "Last": "最近",
    "What came": "来过的内容",
    "Event": "事件",
    "it is tried again": "会再试",
    "Try it now": "现在再试",
    "Nothing has come yet": "还没有内容来过",
    "What is called at its address is listed here.": "调用它的地址的内容列在这里。",
    "Its schedules are in its configuration:": "它的定时任务在它的配置里：",
    "Open": "未了结",
    "sent": "已发出",
    "counted": "已计数",
    "resolved": "已了结",
    "ignored": "已忽略",
}
